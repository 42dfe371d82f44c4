package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/tachograph/tachograph/loadtest/peers/vehiclepb"
)

// peerColumns are what one table of a peer has: no position, no id, no raw bytes.
const peerColumns = `time DateTime64(6, 'UTC'), latitude Float64, longitude Float64, altitude Float64, heading Float64, speed Float32,
	horizontal_accuracy Float64, is_moving Bool`

const (
	plainTable = "_plain"
	plainBatch = 50_000 // rows of a batch; what is not acknowledged may be twice as much
)

// plainSettings are what is printed with its figures.
const plainSettings = "pull consumer, explicit acks after each batch, MaxAckPending 100,000, 5,000 a pull; clickhouse-go Append by row, batches of 50,000, native, no compression"

// runPlain is the consumer that most people write: explicit acknowledgements,
// a message into a struct, clickhouse-go row by row, one table. It is exactly
// once only as long as nobody dies.
func (r *Rig) runPlain(ctx context.Context) (cost, error) {
	if err := r.create(ctx, plainTable, "(device String, "+peerColumns+") ENGINE = MergeTree ORDER BY (device, time)"); err != nil {
		return cost{}, err
	}
	js, err := jetstream.New(r.nats.conn)
	if err != nil {
		return cost{}, err
	}
	consumer, err := js.CreateConsumer(ctx, rigStream, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 2 * plainBatch, AckWait: time.Minute})
	if err != nil {
		return cost{}, err
	}
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{r.engine.native},
		Auth: clickhouse.Auth{Database: "tacho", Username: engineUser, Password: r.engine.password}})
	if err != nil {
		return cost{}, err
	}
	defer conn.Close()
	c, err := r.leg(func() error { return r.consume(ctx, consumer, conn) })
	if err != nil {
		return c, fmt.Errorf("plain consumer: %w", err)
	}
	if err := js.DeleteConsumer(ctx, rigStream, consumer.CachedInfo().Name); err != nil {
		return c, err
	}
	c.lost, c.doubled, err = r.losses(ctx, plainTable)
	return c, err
}

func (r *Rig) consume(ctx context.Context, consumer jetstream.Consumer, conn clickhouse.Conn) error {
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		return err
	}
	defer messages.Stop()
	var batch driver.Batch
	var taken []jetstream.Msg
	for n := range r.messages {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		if batch == nil {
			if batch, err = conn.PrepareBatch(ctx, "INSERT INTO "+plainTable); err != nil {
				return err
			}
		}
		if err := r.appendPlain(batch, m); err != nil {
			return err
		}
		if taken = append(taken, m); len(taken) < plainBatch && n+1 < r.messages {
			continue
		}
		if err := batch.Send(); err != nil {
			return err
		}
		for _, m := range taken {
			if err := m.Ack(); err != nil {
				return err
			}
		}
		batch, taken = nil, taken[:0]
	}
	return r.nats.conn.FlushTimeout(time.Minute) // the last acknowledgements are part of it
}

func (r *Rig) appendPlain(batch driver.Batch, m jetstream.Msg) error {
	device := strings.Split(m.Subject(), ".")[2]
	if r.form == Protobuf {
		var p vehiclepb.Position
		if err := proto.Unmarshal(m.Data(), &p); err != nil {
			return err
		}
		return batch.Append(device, p.GetTime().AsTime(), p.GetLatitude(), p.GetLongitude(), p.GetAltitude(), p.GetHeading(), p.GetSpeed(),
			p.GetHorizontalAccuracy(), p.GetIsMoving())
	}
	var f fix
	if err := json.Unmarshal(m.Data(), &f); err != nil {
		return err
	}
	return batch.Append(device, time.UnixMilli(f.Time), f.Latitude, f.Longitude, f.Altitude, f.Heading, f.Speed, f.HorizontalAccuracy, f.IsMoving)
}
