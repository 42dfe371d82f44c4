package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// A picture is everything that is made of a log, whole: each row of every table
// and roll-up, each document of every view, what the API says of each device now
// and at moments of the past. By what it is of, then by key.
type picture map[string]map[string]string

func (p picture) put(of, key, text string) {
	if p[of] == nil {
		p[of] = map[string]string{}
	}
	if there, twice := p[of][key]; twice {
		text = there + " AND " + text
	}
	p[of][key] = text
}

// size counts what is in it.
func (p picture) size() (n int) {
	for _, all := range p {
		n += len(all)
	}
	return n
}

// A look is a question about the past.
type look struct{ device, at string }

// picture takes one. looks are the moments of which it asks.
func (s *site) picture(ctx context.Context, looks []look) (p picture, err error) {
	p = picture{}
	for _, take := range []func(context.Context, picture) error{s.tables, s.rollups, s.views, s.answers} {
		if err := take(ctx, p); err != nil {
			return nil, fmt.Errorf("take picture: %w", err)
		}
	}
	for _, l := range looks {
		for _, by := range []string{"arrival", "device"} {
			path := "/v1/devices/" + url.PathEscape(l.device) + "/state?" + url.Values{"at": {l.at}, "by": {by}}.Encode()
			p.put("state at a moment", l.device+" "+l.at+" by "+by, s.says(ctx, path))
		}
		p.put("shadow at a moment", l.device+" "+l.at, s.says(ctx, "/v1/devices/"+url.PathEscape(l.device)+"/shadow?at="+url.QueryEscape(l.at)))
	}
	return p, nil
}

// says is an answer, or the refusal.
func (s *site) says(ctx context.Context, path string) string {
	text, err := s.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err.Error()
	}
	return text
}

// names asks ClickHouse for a list.
func (s *site) names(ctx context.Context, sql string) (all []string, err error) {
	err = s.sql(ctx, sql+" FORMAT TSVRaw", func(line []byte) error {
		all = append(all, string(line))
		return nil
	})
	return all, err
}

// tables takes every table but ours and the checkpoints: each row, as text, by its
// place in the log.
func (s *site) tables(ctx context.Context, p picture) error {
	tables, err := s.names(ctx, `SELECT name FROM system.tables WHERE database = 'tacho' AND engine LIKE '%MergeTree' AND name NOT LIKE '\\_%' AND name != 'checkpoints' ORDER BY name`)
	if err != nil {
		return err
	}
	for _, table := range tables {
		columns, err := s.names(ctx, "SELECT name FROM system.columns WHERE database = 'tacho' AND name != '_stored' AND table = '"+table+"' ORDER BY name")
		if err != nil {
			return err
		}
		key := "toString((_epoch, _partition, _seq))"
		if slices.Contains(columns, "_row") {
			key = "toString((_epoch, _partition, _seq, _row))"
		}
		p["table "+table] = map[string]string{} // one that is empty is one
		sql := fmt.Sprintf("SELECT %s, formatRowNoNewline('JSONCompactEachRow', `%s`) FROM tacho.`%s` FORMAT JSONCompactEachRow", key, strings.Join(columns, "`, `"), table)
		err = s.sql(ctx, sql, func(line []byte) error {
			var row [2]string
			if err := json.Unmarshal(line, &row); err != nil {
				return err
			}
			p.put("table "+table, row[0], row[1])
			return nil
		})
		if err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	return nil
}

// rollups takes each bucket of every roll-up.
func (s *site) rollups(ctx context.Context, p picture) error {
	views, err := s.names(ctx, `SELECT name FROM system.tables WHERE database = 'tacho' AND engine = 'View' AND match(name, '_1[mh]$') AND name IN (SELECT table FROM system.columns WHERE database = 'tacho' AND name = 'signal') ORDER BY name`)
	if err != nil {
		return err
	}
	for _, view := range views {
		p["roll-up "+view] = map[string]string{}
		sql := fmt.Sprintf("SELECT toString((device, signal, time)), toString((count, min, max, last, last_time)), toString(avg) FROM tacho.`%s` FORMAT JSONCompactEachRow", view)
		err := s.sql(ctx, sql, func(line []byte) error {
			var row [3]string
			if err := json.Unmarshal(line, &row); err != nil {
				return err
			}
			p.put("roll-up "+view, row[0], row[1]+averageMark+row[2])
			return nil
		})
		if err != nil {
			return fmt.Errorf("roll-up %s: %w", view, err)
		}
	}
	return nil
}

// averageMark stands in front of a bucket's average, the one value of which the
// last digits depend on the order of adding up.
const averageMark = " average "

// views takes each document of every bucket.
func (s *site) views(ctx context.Context, p picture) error {
	return s.jetStream(func(js jetstream.JetStream) error {
		for _, bucket := range []string{"latest", "shadow"} {
			of := "view " + bucket
			p[of] = map[string]string{}
			kv, err := js.KeyValue(ctx, bucket)
			if err != nil {
				return fmt.Errorf("%s: %w", of, err)
			}
			w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
			if err != nil {
				return fmt.Errorf("%s: %w", of, err)
			}
			for e := range w.Updates() {
				if e == nil {
					break
				}
				p.put(of, e.Key(), string(e.Value()))
			}
			if err := w.Stop(); err != nil {
				return fmt.Errorf("%s: %w", of, err)
			}
		}
		return nil
	})
}

// answers takes what the API says of each device, of schemas and dead letters.
func (s *site) answers(ctx context.Context, p picture) error {
	var page struct {
		Devices []struct{ ID string }
	}
	text, err := s.ask(ctx, http.MethodGet, "/v1/devices?limit=1000", nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		return err
	}
	p.put("answer", "devices", text)
	for _, path := range []string{"/v1/schemas", "/v1/shadows/pending?limit=1000", "/v1/dead-letters?state=all&limit=1000"} {
		p.put("answer", path, s.says(ctx, path))
	}
	for _, d := range page.Devices {
		for _, what := range []string{"state", "shadow/history", "shadows", "commands?limit=1000"} {
			p.put("answer", d.ID+" "+what, s.says(ctx, "/v1/devices/"+url.PathEscape(d.ID)+"/"+what))
		}
	}
	return nil
}

// differences names what is not the same in two pictures: how many places, and the
// first ones.
func (p picture) differences(q picture) (n int, first []string) {
	tell := func(format string, args ...any) {
		if n++; len(first) < 10 {
			first = append(first, fmt.Sprintf(format, args...))
		}
	}
	all := map[string]bool{}
	for of := range p {
		all[of] = true
	}
	for of := range q {
		all[of] = true
	}
	for _, of := range sortedKeys(all) {
		if (p[of] == nil) != (q[of] == nil) {
			tell("%s: there is %v, then %v", of, p[of] != nil, q[of] != nil)
			continue
		}
		keys := map[string]bool{}
		for key := range p[of] {
			keys[key] = true
		}
		for key := range q[of] {
			keys[key] = true
		}
		for _, key := range sortedKeys(keys) {
			a, before := p[of][key]
			b, after := q[of][key]
			switch {
			case !after:
				tell("%s: %s is gone: %.400s", of, key, a)
			case !before:
				tell("%s: %s is new: %.400s", of, key, b)
			case !same(a, b):
				tell("%s: %s is\n    %s, was\n    %s", of, key, around(b, a), around(a, b))
			}
		}
	}
	return n, first
}

// around is what of a text is not as in another, with a little in front of it.
func around(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	from := max(0, i-100)
	return fmt.Sprintf("%.400s", a[from:])
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// same tells whether two texts are, averages of roll-ups to twelve digits.
func same(a, b string) bool {
	if a == b {
		return true
	}
	headA, avgA, okA := strings.Cut(a, averageMark)
	headB, avgB, okB := strings.Cut(b, averageMark)
	if !okA || !okB || headA != headB {
		return false
	}
	x, errX := strconv.ParseFloat(avgA, 64)
	y, errY := strconv.ParseFloat(avgB, 64)
	return errX == nil && errY == nil && math.Abs(x-y) <= 1e-12*max(math.Abs(x), math.Abs(y))
}

// asArchived is what of a picture an archive has: no hashes of tokens, and arrivals
// in microseconds, as tables keep them (services/archive, "What is not in it").
func (p picture) asArchived() picture {
	q := picture{}
	for of, all := range p {
		q[of] = map[string]string{}
		for key, text := range all {
			if of == "table events" && strings.Contains(text, `"credential"`) {
				continue
			}
			q[of][key] = nanoseconds.ReplaceAllStringFunc(text, func(at string) string { // and a time ends in no zero
				return strings.TrimRight(strings.TrimRight(nanoseconds.ReplaceAllString(at, "$1"), "0"), ".") + "Z"
			})
		}
	}
	return q
}

var nanoseconds = regexp.MustCompile(`(T[0-9:]{8}\.[0-9]{6})[0-9]{1,3}Z`)
