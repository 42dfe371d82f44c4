package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// said is what a roll-up says of a signal.
type said struct {
	Count               uint64
	Min, Max, Avg, Last float64
	LastTime            int64 `json:"last_time"` // ms
}

// A bucket is what it has to say.
type bucket struct {
	said
	sum    float64
	latest place // of what was last
}

// add counts a sample in. Sums are exact: samples are multiples of 1/32 and
// small, or whole.
func (b *bucket) add(r row, v float64) {
	if b.Count == 0 || v < b.Min {
		b.Min = v
	}
	if b.Count == 0 || v > b.Max {
		b.Max = v
	}
	if b.Count == 0 || r.at > b.LastTime || r.at == b.LastTime && r.place.after(b.latest) {
		b.Last, b.LastTime, b.latest = v, r.at, r.place
	}
	b.Count++
	b.sum += v
	b.Avg = b.sum / float64(b.Count)
}

// compareRollUps adds a type's samples up and holds its roll-ups, by the minute
// and by the hour, to that: count, least, greatest, average and so the sum, last
// and its time, exactly.
func (c *Cluster) compareRollUps(ctx context.Context, typ string, rows map[place]row, r *Report) error {
	for suffix, seconds := range map[string]int64{"1m": 60, "1h": 3600} {
		want := map[string]*bucket{}
		for _, row := range rows {
			for name, v := range row.values {
				key := fmt.Sprintf("%s %s %d", row.device, name, row.at/1000/seconds*seconds)
				if want[key] == nil {
					want[key] = &bucket{}
				}
				want[key].add(row, v)
			}
		}
		view := typ + "_" + suffix
		sql := fmt.Sprintf(`SELECT concat(device, ' ', signal, ' ', toString(toUnixTimestamp64Second(time))) AS key, count, min, max, avg, last, toUnixTimestamp64Milli(last_time) AS last_time
			FROM tacho.%s FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0`, view)
		err := c.lines(ctx, sql, func(line []byte) error {
			var got struct {
				said
				Key string
			}
			if err := json.Unmarshal(line, &got); err != nil {
				return err
			}
			w := want[got.Key]
			if w == nil {
				r.differ("tacho.%s has a bucket that no sample is in: %s", view, line)
				return nil
			}
			delete(want, got.Key)
			r.Buckets++
			if got.said != w.said {
				r.differ("tacho.%s %s: %+v, want %+v", view, got.Key, got.said, w.said)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for key := range want {
			r.differ("tacho.%s lacks the bucket %s", view, key)
		}
	}
	return c.compareWide(ctx, typ, r)
}

// compareWide holds the wide views to the long ones: the same rows of the same
// tables, each signal with its own type.
func (c *Cluster) compareWide(ctx context.Context, typ string, r *Report) error {
	for _, suffix := range []string{"1m", "1h"} {
		var signals []string
		err := c.lines(ctx, fmt.Sprintf("SELECT replaceRegexpOne(name, '_count$', '') FROM system.columns WHERE database = 'tacho' AND table = '%s_%s_wide' AND name LIKE '%%\\_count' FORMAT TSV", typ, suffix), func(line []byte) error {
			signals = append(signals, string(line))
			return nil
		})
		if err != nil {
			return err
		}
		var counts []string
		for _, s := range signals {
			counts = append(counts, "sum(`"+s+"_count`)")
		}
		if len(counts) == 0 {
			r.differ("tacho.%s_%s_wide has no signals", typ, suffix)
			continue
		}
		wide, err := c.number(ctx, fmt.Sprintf("SELECT %s FROM tacho.%s_%s_wide FORMAT TSV", strings.Join(counts, " + "), typ, suffix))
		if err != nil {
			return err
		}
		long, err := c.number(ctx, fmt.Sprintf("SELECT sum(count) FROM tacho.%s_%s FORMAT TSV", typ, suffix))
		if err != nil {
			return err
		}
		if wide != long {
			r.differ("tacho.%s_%s_wide counts %d, the long view %d", typ, suffix, wide, long)
		}
	}
	return nil
}
