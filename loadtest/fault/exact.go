package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tachograph/tachograph/loadtest/ledger"
)

// A Report is the ledger's verdict and what else differs from the log.
type Report struct {
	ledger.Verdict
	Samples, Buckets int // compared
	Differences      []string
}

// Good tells whether nothing differs.
func (r Report) Good() bool { return r.Verdict.Good() && len(r.Differences) == 0 }

func (r *Report) differ(format string, args ...any) {
	if len(r.Differences) < 20 {
		r.Differences = append(r.Differences, fmt.Sprintf(format, args...))
	}
}

func (r Report) String() string {
	text := fmt.Sprintf("%s; %d samples and %d buckets of roll-ups compared, %d differ", r.Verdict, r.Samples, r.Buckets, len(r.Differences))
	return strings.Join(append([]string{text}, r.Differences...), "\n  ")
}

// Judge waits until the tables and roll-ups are as far as the log, and compares
// them with it: what was acknowledged by id and bytes, and in its device's order,
// every sample value for value, every bucket of the roll-ups with what its samples
// add up to. acknowledged are batches of one device each; see Senders.
func (c *Cluster) Judge(ctx context.Context, acknowledged [][]ledger.Entry, patience time.Duration) (r Report, err error) {
	book := ledger.NewBook(slices.Concat(acknowledged...))
	log, stored, table := book.Place(), book.Place(), book.Place()
	want, err := c.readLog(ctx, log)
	if err != nil {
		return r, fmt.Errorf("judge: log: %w", err)
	}
	if err := c.await(ctx, want, patience); err != nil {
		return r, fmt.Errorf("judge: %w", err)
	}
	events := 0
	err = c.lines(ctx, "SELECT device, message AS type, id, base64Encode(payload) AS data_base64 FROM tacho.events WHERE kind = 'telemetry' FORMAT JSONEachRow", func(line []byte) error {
		var e loggedEvent
		err := json.Unmarshal(line, &e)
		events++
		stored.Copy(e.Device, e.Type, e.ID, e.Payload)
		return err
	})
	if err != nil {
		return r, fmt.Errorf("judge: tacho.events: %w", err)
	}
	if events != want.events {
		r.differ("tacho.events has %d rows, the log %d events", events, want.events)
	}
	want.compareOrder(acknowledged, &r)
	if err := c.compareShards(ctx, slices.Sorted(maps.Keys(want.rows)), &r); err != nil {
		return r, fmt.Errorf("judge: shards: %w", err)
	}
	for typ, rows := range want.rows {
		if err := c.compareRows(ctx, typ, rows, want.good, table, &r); err != nil {
			return r, fmt.Errorf("judge: tacho.%s: %w", typ, err)
		}
		if err := c.compareRollUps(ctx, typ, rows, &r); err != nil {
			return r, fmt.Errorf("judge: roll-ups of %s: %w", typ, err)
		}
	}
	letters := 0
	err = c.lines(ctx, "SELECT concat(toString(count()), ' ', toString(uniqExact(_partition, _epoch, _seq, sample))) FROM tacho.dead_letters FORMAT TSV", func(line []byte) error {
		var places int
		if _, err := fmt.Sscan(string(line), &letters, &places); err != nil {
			return err
		}
		if letters != want.letters || places != want.letters {
			r.differ("tacho.dead_letters has %d rows of %d samples, the log %d", letters, places, want.letters)
		}
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("judge: tacho.dead_letters: %w", err)
	}
	r.Verdict = book.Judge(log, stored, table)
	return r, nil
}

// await waits for the checkpoints of samples and roll-ups.
func (c *Cluster) await(ctx context.Context, want *expected, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		at := map[string]uint64{}
		err := c.lines(ctx, "SELECT concat(table, ' ', toString(partition), ' ', toString(max(seq))) FROM tacho.checkpoints WHERE table IN ('events', '_rollups') GROUP BY table, partition FORMAT TSV", func(line []byte) error {
			var table string
			var partition int
			var seq uint64
			_, err := fmt.Sscan(string(line), &table, &partition, &seq)
			at[fmt.Sprint(table, partition)] = seq
			return err
		})
		behind := ""
		for partition, seq := range want.newest {
			for _, table := range []string{"events", "_rollups"} {
				if got := at[fmt.Sprint(table, partition)]; got < seq {
					behind += fmt.Sprintf(" %s of partition %d: %d of %d", table, partition, got, seq)
				}
			}
		}
		if err == nil && behind == "" {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("not caught up after %s:%s %v", patience, behind, err)
		}
	}
}

// compareShards holds what each shard has to the partitions that are its own, and
// what it says of all to what all have.
func (c *Cluster) compareShards(ctx context.Context, types []string, r *Report) error {
	if len(c.engines) < 2 {
		return nil
	}
	for _, table := range append([]string{"events WHERE kind = 'telemetry'", "dead_letters"}, types...) {
		var fronts []int
		sum := 0
		for i, e := range c.engines {
			all, err := e.number(ctx, fmt.Sprintf("SELECT count() FROM %s.%s FORMAT TSV", clusterDatabase, table))
			if err != nil {
				return err
			}
			fronts = append(fronts, all)
			err = e.lines(ctx, fmt.Sprintf("SELECT _partition, count() FROM %s_shard.%s GROUP BY _partition FORMAT TSV", clusterDatabase, table), func(line []byte) error {
				var partition, rows int
				_, err := fmt.Sscan(string(line), &partition, &rows)
				if sum += rows; partition%len(c.engines) != i {
					r.differ("%s has %d rows of partition %d in %s", e.name, rows, partition, table)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		for i, all := range fronts {
			if all != sum {
				r.differ("%s shows %d rows of %s, the shards have %d", c.engines[i].name, all, table, sum)
			}
		}
	}
	return nil
}

// compareRows holds a type's table to the log.
func (c *Cluster) compareRows(ctx context.Context, typ string, want map[place]row, good map[string]int, into *ledger.Place, r *Report) error {
	seen := make(map[place]bool, len(want))
	ids := map[[2]string]int{} // device, id
	err := c.lines(ctx, fmt.Sprintf("SELECT * EXCEPT time, toUnixTimestamp64Milli(time) AS _at FROM tacho.%s FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0", typ), func(line []byte) error {
		var got struct {
			Device    string `json:"device"`
			ID        string `json:"_id"`
			Partition int    `json:"_partition"`
			Epoch     int    `json:"_epoch"`
			Seq       uint64 `json:"_seq"`
			Row       int    `json:"_row"`
			At        int64  `json:"_at"`
		}
		var all map[string]any
		if err := json.Unmarshal(line, &got); err != nil {
			return err
		}
		if err := json.Unmarshal(line, &all); err != nil {
			return err
		}
		p := place{got.Partition, got.Epoch, got.Seq, got.Row}
		w, known := want[p]
		switch {
		case !known:
			r.differ("tacho.%s has a row at %v which the log has not: %s", typ, p, line)
			return nil
		case seen[p]:
			r.differ("tacho.%s has the row at %v more than once", typ, p)
		case got.Device != w.device || got.At != w.at || all["_unknown"] != "":
			r.differ("tacho.%s at %v: %s, want %+v", typ, p, line, w)
		}
		for name, v := range all {
			number, is := v.(float64)
			if wanted, known := w.values[name]; name[0] != '_' && (known != is || is && wanted != number) && name != "device" && name != "received" {
				r.differ("tacho.%s at %v: %s is %v, want %v", typ, p, name, v, w.values[name])
			}
		}
		for name := range w.values {
			if _, there := all[name]; !there {
				r.differ("tacho.%s at %v: there is no column %s", typ, p, name)
			}
		}
		seen[p] = true
		ids[[2]string{got.Device, got.ID}]++
		return nil
	})
	if err != nil {
		return err
	}
	for p, w := range want {
		if r.Samples++; !seen[p] {
			r.differ("tacho.%s lacks the row at %v: %+v", typ, p, w)
		}
	}
	for key, n := range ids { // so many whole copies of the message
		of := max(good[key[1]], 1)
		into.Rows(key[0], typ, key[1], (n+of-1)/of)
		if n < of {
			r.differ("tacho.%s has %d of the %d samples of %s %s", typ, n, of, key[0], key[1])
		}
	}
	return nil
}
