package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	telegrafTable = "_telegraf"
	telegrafQueue = "telegraf" // names its consumer as well
)

// telegrafSettings are what is printed with its figures.
const telegrafSettings = "nats_consumer, max_undelivered_messages 50,000, a consumer made beforehand in memory with MaxAckPending 50,000; outputs.sql, batch_transactions, metric_batch_size 10,000, no compression"

// telegrafConfig is tuned: as its manual has it, Telegraf has a thousand
// messages on their way and sends each row by itself.
const telegrafConfig = `[agent]
  interval = "10s"
  flush_interval = "1s"
  metric_batch_size = 10000
  metric_buffer_limit = 200000
  omit_hostname = true
  precision = "1ms"
  quiet = true
[[inputs.nats_consumer]]
  servers = [%q]
  jetstream_subjects = ["in.>"]
  jetstream_stream = %q
  queue_group = %q
  max_undelivered_messages = 50000
  pending_message_limit = 100000
  data_format = "json"
  json_time_key = "time"
  json_time_format = "unix_ms"
  name_override = %q
[[outputs.sql]]
  driver = "clickhouse"
  data_source_name = "clickhouse://%s:%s@%s/tacho?compress=none"
  timestamp_column = "time"
  batch_transactions = true
`

// runTelegraf lets Telegraf read the whole log into a table of its own. What it
// costs to start is taken off; with 0 messages that is all it does.
func (r *Rig) runTelegraf(ctx context.Context, messages int) (c cost, err error) {
	if err := r.create(ctx, telegrafTable, "(subject LowCardinality(String), "+peerColumns+") ENGINE = MergeTree ORDER BY (subject, time)"); err != nil {
		return c, err
	}
	js, err := jetstream.New(r.nats.conn)
	if err != nil {
		return c, err
	}
	if _, err := js.CreatePushConsumer(ctx, rigStream, jetstream.ConsumerConfig{
		Durable: telegrafQueue, DeliverSubject: "deliver.telegraf", DeliverGroup: telegrafQueue,
		AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 50_000, AckWait: 5 * time.Minute,
		MemoryStorage: true, // its state of 50,000 would be written to disk time and again
	}); err != nil {
		return c, err
	}
	// Telegraf deletes it on a clean stop, or doesn't.
	defer func() {
		if e := js.DeleteConsumer(ctx, rigStream, telegrafQueue); !errors.Is(e, jetstream.ErrConsumerNotFound) {
			err = errors.Join(err, e)
		}
	}()
	file := filepath.Join(r.dir, "telegraf.conf")
	config := fmt.Sprintf(telegrafConfig, r.nats.URL, rigStream, telegrafQueue, telegrafTable, engineUser, r.engine.password, r.engine.native)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return c, err
	}
	var process *child
	var own time.Duration
	var rate float64
	c, err = r.leg(func() (err error) {
		if process, err = startChild(exec.Command(r.telegraf, "--config", file), filepath.Join(r.dir, "telegraf.log")); err != nil {
			return err
		}
		if messages == 0 {
			time.Sleep(3 * time.Second) // no condition says that it has started
		} else if rate, err = r.watch(ctx, telegrafTable); err != nil {
			return errors.Join(fmt.Errorf("%w; see %s", err, process.log.Name()), process.stop())
		}
		own, err = CPU(process.pid())
		return errors.Join(err, process.stop())
	})
	if err != nil {
		return c, err
	}
	c.client, c.rate = own, rate // this process only looked on
	if messages == 0 {
		return c, nil
	}
	c = c.minus(r.idleTelegraf)
	c.lost, c.doubled, err = r.losses(ctx, telegrafTable)
	return c, err
}
