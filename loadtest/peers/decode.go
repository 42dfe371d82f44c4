package peers

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/bytedance/sonic"
	gojson "github.com/goccy/go-json"
	"google.golang.org/protobuf/proto"

	"github.com/tachograph/tachograph/loadtest/peers/vehiclepb"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

// A Decoding is what reading one message of 8 fields costs.
type Decoding struct {
	Form        string  `json:"form"`
	Bytes       int     `json:"bytes"`
	Decoder     string  `json:"decoder"`
	Nanoseconds float64 `json:"ns"` // of CPU, median
	Lowest      float64 `json:"lowest_ns"`
	Highest     float64 `json:"highest_ns"`
	Allocations float64 `json:"allocations"`
	OfOurs      float64 `json:"of_ours"` // median of the rounds' ratios
}

// A fix is what JSON decoders read the message into. Pointers would tell what
// is missing; without them it is cheaper, and the messages lack nothing.
type fix struct {
	Time               int64   `json:"time"`
	Latitude           float64 `json:"latitude"`
	Longitude          float64 `json:"longitude"`
	Altitude           float64 `json:"altitude"`
	Heading            float64 `json:"heading"`
	Speed              float32 `json:"speed"`
	HorizontalAccuracy float64 `json:"horizontal_accuracy"`
	IsMoving           bool    `json:"is_moving"`
}

type decoder struct {
	form   Form
	name   string
	decode func([]byte) error
}

// decoders lists ours first in each form. It fills Arrow columns, which are
// handed over and used again every 8,192 rows as the writer does it; theirs fill
// the same struct again and again.
func decoders() ([]decoder, error) {
	registry := schemas.NewRegistry()
	var position *schemas.Schema
	for _, n := range vehicle.Schemas() {
		if n.Name != "position" {
			continue
		}
		var err error
		if position, _, err = registry.Add(n.Name, n.Source); err != nil {
			return nil, err
		}
	}
	if position == nil {
		return nil, errors.New("no schema position")
	}
	ours := func() func([]byte) error {
		batch, received := position.NewBatch(schemas.NewRecycler(memory.NewGoAllocator(), 64<<20)), time.Now()
		return func(b []byte) error {
			rows, _, err := batch.Append(b, received)
			if err == nil && rows != 1 {
				err = fmt.Errorf("%d rows", rows)
			}
			if batch.Rows() == 8192 {
				batch.Record().Release()
			}
			return err
		}
	}
	var f fix
	var m vehiclepb.Position
	return []decoder{
		{JSON, "ours, into columns", ours()},
		{JSON, "goccy/go-json", func(b []byte) error { return gojson.Unmarshal(b, &f) }},
		{JSON, "bytedance/sonic", func(b []byte) error { return sonic.ConfigFastest.Unmarshal(b, &f) }},
		{Protobuf, "ours, into columns", ours()},
		{Protobuf, "protobuf-go, generated", func(b []byte) error { return proto.Unmarshal(b, &m) }},
	}, nil
}

// Decode measures all decoders in every round, messages each, in CPU time of
// this process: collections of garbage count, for who allocates pays, and what
// else runs on the machine counts little.
func Decode(messages, rounds int) ([]Decoding, error) {
	all, err := decoders()
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	payloads := map[Form][][]byte{}
	for _, form := range []Form{JSON, Protobuf} {
		for n := range 1000 { // few enough to stay in the cache, as a batch that was just read does
			payloads[form] = append(payloads[form], form.Payload(time.UnixMilli(1_700_000_000_000), n))
		}
	}
	spent, allocated := make([][]float64, len(all)), make([]float64, len(all))
	for round := range rounds + 1 { // the first one warms up
		for i := range all {
			at := (i + round) % len(all)
			ns, mallocs, err := all[at].run(payloads[all[at].form], messages)
			if err != nil {
				return nil, fmt.Errorf("decode: %s as %s: %w", all[at].name, all[at].form, err)
			}
			if round > 0 {
				spent[at], allocated[at] = append(spent[at], ns), mallocs
			}
		}
	}
	var table []Decoding
	ours := 0
	for i, d := range all {
		if i == 0 || d.form != all[i-1].form {
			ours = i
		}
		s := summary(spent[i])
		table = append(table, Decoding{Form: d.form.String(), Bytes: len(d.form.sample()), Decoder: d.name, Nanoseconds: s.median,
			Lowest: s.lowest, Highest: s.highest, Allocations: allocated[i], OfOurs: Median(ratios(spent[i], spent[ours]))})
	}
	return table, nil
}

func (d decoder) run(payloads [][]byte, messages int) (ns, mallocs float64, err error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began, err := ownCPU()
	if err != nil {
		return 0, 0, err
	}
	for n := range messages {
		if err := d.decode(payloads[n%len(payloads)]); err != nil {
			return 0, 0, err
		}
	}
	ended, err := ownCPU()
	runtime.ReadMemStats(&after)
	return float64((ended - began).Nanoseconds()) / float64(messages), float64(after.Mallocs-before.Mallocs) / float64(messages), err
}

// ownCPU is finer than CPU.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
