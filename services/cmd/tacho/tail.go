package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

// TailCommand is tacho tail.
type TailCommand struct {
	Place
	Subject string `arg:"" optional:"" default:"tacho.>" help:"Public subject, such as tacho.telemetry.car-1.> (${default})."`
	Count   uint   `help:"End after so many events." short:"n" placeholder:"N"`
	From    string `help:"Begin with history: beginning, now, a time (RFC 3339), or after an event's token; over HTTP, and no event is missed when the connection is lost." env:"TACHO_TAIL_FROM" placeholder:"PLACE"`
	JSON    bool   `help:"Print one JSON object a line." name:"json"`
}

// A tailed event is one line of tacho tail --json: the names of GET /v1/events,
// and the subject instead of the position's partition.
type tailed struct {
	ID         string          `json:"id,omitempty"`
	Subject    string          `json:"subject"`
	Type       string          `json:"type,omitempty"`
	Kind       string          `json:"kind"`
	Device     string          `json:"device,omitempty"`
	Schema     uint32          `json:"schema,omitempty"`
	Received   string          `json:"received,omitempty"`
	Stream     string          `json:"stream,omitempty"`
	Seq        uint64          `json:"seq,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	DataBase64 []byte          `json:"data_base64,omitempty"`
}

// Run prints events as they are stored, until interrupted.
func (c *TailCommand) Run(ctx context.Context, out *output) error {
	if c.Subject != "tacho" && !strings.HasPrefix(c.Subject, "tacho.") || strings.ContainsAny(c.Subject, " \t\r\n") {
		return failed(exitUsage, "subjects are in events/DESIGN.md; such as tacho.telemetry.*.position", "tail %s: public subjects begin with tacho.", c.Subject)
	}
	if c.From != "" || c.URL != "" {
		return c.runFrom(ctx, out)
	}
	a, err := c.addresses()
	if err != nil {
		return err
	}
	if a.NATS == "" || a.NATSUser == "" {
		return failed(exitUnreachable, "ask the NATS server that the node uses", "tail %s: the node of %s has no listening user", c.Subject, c.Data)
	}
	password, err := c.secret("password of the listener", a.NATSPasswordFile)
	if err != nil {
		return err
	}

	fatal := make(chan error, 1)
	report := func(err error) {
		select {
		case fatal <- err:
		default:
		}
	}
	address := withScheme(a.NATS, "nats")
	nc, err := nats.Connect(address,
		nats.Name("tacho tail"), nats.UserInfo(a.NATSUser, password), nats.Timeout(30*time.Second),
		nats.MaxReconnects(-1), nats.ReconnectWait(500*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				out.note("tail: connection lost, events may be missing: %v", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { out.note("tail: connected again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) {
				out.note("tail: this reader is too slow, events are missing")
				return
			}
			report(err)
		}))
	if errors.Is(err, nats.ErrAuthorization) {
		return failed(exitDenied, "restart the node; it writes its password files anew", "tail %s: %w", c.Subject, err)
	}
	if err != nil {
		return failed(exitUnreachable, "is the node running? start one with: tacho serve", "reach nats at %s: %w", address, err)
	}
	defer nc.Close()

	messages := make(chan *nats.Msg, 8192)
	sub, err := nc.ChanSubscribe(c.Subject, messages)
	if err != nil {
		return failed(exitUsage, "subjects are in events/DESIGN.md", "tail %s: %w", c.Subject, err)
	}
	if err := nc.FlushTimeout(30 * time.Second); err != nil {
		return failed(exitUnreachable, "is the node running? start one with: tacho serve", "tail %s: %w", c.Subject, err)
	}
	if err := nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return failed(exitDenied, "subjects are in events/DESIGN.md", "tail %s: %w", c.Subject, err)
	}
	out.note("tail: listening on %s", c.Subject)
	return c.print(ctx, out, sub, messages, fatal)
}

func (c *TailCommand) print(ctx context.Context, out *output, sub *nats.Subscription, messages <-chan *nats.Msg, fatal <-chan error) error {
	w := bufio.NewWriter(out.w)
	for printed := uint(0); ; {
		select {
		case <-ctx.Done():
			_ = sub.Unsubscribe() // the connection ends next
			return w.Flush()
		case err := <-fatal:
			_ = w.Flush()
			return failed(exitFailed, "subjects are in events/DESIGN.md", "tail %s: %w", c.Subject, err)
		case m := <-messages:
			e := describe(m)
			if c.JSON {
				line, err := json.Marshal(e)
				if err != nil {
					return fmt.Errorf("tail %s: %w", c.Subject, err)
				}
				_, _ = w.Write(append(line, '\n')) // Flush reports it
			} else {
				_, _ = w.WriteString(e.line(m.Data) + "\n")
			}
			if len(messages) == 0 || w.Buffered() > 32<<10 {
				if err := w.Flush(); err != nil {
					return fmt.Errorf("tail %s: %w", c.Subject, err)
				}
			}
			if printed++; printed == c.Count {
				return w.Flush()
			}
		}
	}
}

// describe reads a republished event. The server's header tells the subject
// that the log keeps it under, which says all; the public subject, which is
// shorter, has to do where the header is missing.
func describe(m *nats.Msg) tailed {
	e := tailed{ID: m.Header.Get("Id"), Subject: m.Subject, Type: m.Header.Get("Ty"), Stream: m.Header.Get("Nats-Stream")}
	stream, name, schema, err := events.ParseSubject(m.Header.Get("Nats-Subject"))
	if err == nil {
		e.Schema = schema
		if name != "" {
			e.Type = name
		}
		if v, err := strconv.ParseUint(m.Header.Get("Sv"), 10, 32); err == nil { // of facts and replays
			e.Schema = uint32(v)
		}
	} else if tokens := strings.Split(m.Subject, "."); len(tokens) > 2 {
		stream.Kind = events.Kind(tokens[1])
		stream.ID, _ = events.Unescape(tokens[2]) // what can't be read is left out
	}
	e.Kind = string(stream.Kind)
	if e.ID == "" && stream.ID != "" && e.Type != "" { // left out where it follows from the rest
		e.ID = events.DeriveID(stream.ID, e.Type, m.Data)
	}
	if stream.Kind != events.SchemaKind && stream.Kind != events.Job {
		e.Device = stream.ID
	}
	e.Seq, _ = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64) // 0 is left out
	if e.Received = m.Header.Get("At"); e.Received == "" {
		e.Received = m.Header.Get("Nats-Time-Stamp")
	}
	if json.Valid(m.Data) && utf8.Valid(m.Data) {
		e.Data = m.Data
	} else {
		e.DataBase64 = m.Data
	}
	return e
}

// line is the event for people.
func (e *tailed) line(payload []byte) string {
	about := e.Device
	if about == "" {
		about = e.Subject
	}
	body := ""
	if e.Data != nil {
		body = compact(e.Data)
	} else {
		body = fmt.Sprintf("%d bytes: %s", len(payload), printable(string(payload[:min(len(payload), 64)])))
	}
	return fmt.Sprintf("%s  %s  %s  %s  %s", e.Received, e.Kind, printable(about), printable(e.Type), body)
}
