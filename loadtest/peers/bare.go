package peers

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// bareDrain reads the log in order and does nothing with it.
func (r *Rig) bareDrain(ctx context.Context) (cost, error) {
	return r.leg(func() error {
		js, err := jetstream.New(r.nats.conn)
		if err != nil {
			return err
		}
		consumer, err := js.OrderedConsumer(ctx, rigStream, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		n, all := 0, make(chan struct{})
		running, err := consumer.Consume(func(jetstream.Msg) {
			if n++; n == r.messages {
				close(all)
			}
		}, jetstream.PullMaxMessages(5000))
		if err != nil {
			return err
		}
		defer running.Stop()
		select {
		case <-all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute):
			return fmt.Errorf("bare drain: the log has fewer than %d messages", r.messages)
		}
	})
}

// A readyMade table is its rows as ClickHouse itself sends and takes them
// (Native), in blocks: nothing is left to do for a client.
type readyMade struct {
	table  string
	blocks [][]byte
}

// takeRows reads a table's rows in the order of the log.
func (r *Rig) takeRows(ctx context.Context, table, columns string) (m readyMade, err error) {
	m.table = table
	for at := 0; at < r.messages; at += blockRows {
		b, err := r.engine.Exec(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE _partition = 0 ORDER BY _seq LIMIT %d OFFSET %d FORMAT Native SETTINGS max_block_size = %d",
			columns, table, blockRows, at, blockRows), nil)
		if err != nil {
			return m, fmt.Errorf("take the rows of %s: %w", table, err)
		}
		m.blocks = append(m.blocks, b)
	}
	return m, nil
}

// insert brings the rows into tables, a block of one after a block of the other.
func (r *Rig) insert(ctx context.Context, rows []readyMade, into []string) (cost, error) {
	return r.leg(func() error {
		for i := range rows[0].blocks {
			for at := range rows {
				if _, err := r.engine.Exec(ctx, "INSERT INTO "+into[at]+" FORMAT Native", rows[at].blocks[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// bareInsert inserts the rows that the node has made, into tables of the same shape.
func (r *Rig) bareInsert(ctx context.Context, rows []readyMade) (cost, error) {
	var into []string
	for _, m := range rows {
		table := "_bare_" + m.table
		if err := r.create(ctx, table, "AS "+m.table); err != nil {
			return cost{}, err
		}
		into = append(into, table)
	}
	return r.insert(ctx, rows, into)
}
