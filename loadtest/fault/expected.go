package fault

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tachograph/tachograph/loadtest/ledger"
)

// A row is a sample: what the log says that a table must hold, or what it holds.
type row struct {
	device string
	at     int64 // ms
	place  place
	values map[string]float64
}

// place names a sample in the log.
type place struct {
	partition, epoch int
	seq              uint64
	index            int
}

// after tells whether it is later than another of the same device in the log: the epoch of
// a partition that a split has made is the next one.
func (p place) after(o place) bool {
	return cmp.Or(cmp.Compare(p.epoch, o.epoch), cmp.Compare(p.seq, o.seq), cmp.Compare(p.index, o.index)) > 0
}

// A LoggedEvent is one line of GET /v1/events.
type loggedEvent struct {
	ID, Type, Device string
	Payload          []byte `json:"data_base64"`
	Error            json.RawMessage
	Position         struct {
		Epoch, Partition int
		Seq              uint64
	}
}

// expected is what the log makes of itself, without a line of the writer's code.
type expected struct {
	rows    map[string]map[place]row // by type
	good    map[string]int           // by id: samples that can be read
	first   map[string]place         // by id: the first copy
	letters int                      // samples that cannot
	events  int
	newest  map[int]uint64 // partition to sequence
}

func newExpected() *expected {
	return &expected{rows: map[string]map[place]row{}, good: map[string]int{}, first: map[string]place{}, newest: map[int]uint64{}}
}

// readLog reads the whole log of telemetry.
func (c *Cluster) readLog(ctx context.Context, into *ledger.Place) (*expected, error) {
	node, err := c.gatewayNode()
	if err != nil {
		return nil, err
	}
	x := newExpected()
	err = call(ctx, node, http.MethodGet, "/v1/events?kind=telemetry&data=base64", nil, func(line []byte) error {
		var e loggedEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if e.Error != nil {
			return fmt.Errorf("%s", e.Error)
		}
		into.Copy(e.Device, e.Type, e.ID, e.Payload)
		return x.add(e)
	})
	return x, err
}

func (x *expected) add(e loggedEvent) error {
	x.events++
	x.newest[e.Position.Partition] = max(x.newest[e.Position.Partition], e.Position.Seq)
	if _, repeat := x.good[e.ID]; repeat { // all repeats here come at once, or over a split: its new partitions are read last
		return nil
	}
	x.good[e.ID] = 0
	x.first[e.ID] = place{e.Position.Partition, e.Position.Epoch, e.Position.Seq, 0}
	payload := e.Payload
	if !bytes.HasPrefix(payload, []byte("[")) {
		payload = fmt.Appendf(nil, "[%s]", payload)
	}
	var samples []map[string]any
	if err := json.Unmarshal(payload, &samples); err != nil {
		return err
	}
	if x.rows[e.Type] == nil {
		x.rows[e.Type] = map[place]row{}
	}
	for i, s := range samples {
		at, ok := s["time"].(float64)
		if !ok {
			x.letters++
			continue
		}
		x.good[e.ID]++
		r := row{device: e.Device, at: int64(at), place: place{e.Position.Partition, e.Position.Epoch, e.Position.Seq, i}, values: map[string]float64{}}
		for name, v := range s {
			if name != "time" {
				r.values[name] = v.(float64)
			}
		}
		x.rows[e.Type][r.place] = r
	}
	return nil
}

// compareOrder holds the log to the order of each device: what it sent when something
// else had been acknowledged comes after that.
func (x *expected) compareOrder(acknowledged [][]ledger.Entry, r *Report) {
	last := map[string]place{}
	for _, batch := range acknowledged {
		before := last[batch[0].Device]
		for _, e := range batch {
			at, known := x.first[e.ID]
			if !known {
				continue // the ledger says so
			}
			if !at.after(before) {
				r.differ("%s %s of %s is at %v of the log, where %v was acknowledged before it was sent", e.Type, e.ID, e.Device, at, before)
			}
			if at.after(last[e.Device]) {
				last[e.Device] = at
			}
		}
	}
}
