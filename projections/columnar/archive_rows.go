package columnar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/history"
)

// query yields the answer to a statement as it is produced. What is read may be
// kept: nothing of its memory is used again.
func (a *Archive) query(ctx context.Context, sql string) iter.Seq2[arrow.Record, error] {
	return func(yield func(arrow.Record, error) bool) {
		fail := func(err error) { yield(nil, fmt.Errorf("read archived events: %w", err)) }
		compression := "lz4_frame"
		if a.Server.loopback() {
			compression = "none"
		}
		q := url.Values{
			"max_bytes_before_external_sort":         {fmt.Sprint(archiveMemory)},
			"output_format_arrow_string_as_string":   {"0"}, // bytes, which need no copy
			"output_format_arrow_compression_method": {compression},
			"http_send_timeout":                      {"86400"}, // who reads may be slowed down on purpose
			"send_timeout":                           {"86400"},
			"max_execution_time":                     {"0"},
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.Server.URL+"/?"+q.Encode(), strings.NewReader(sql))
		if err != nil {
			fail(err)
			return
		}
		req.Header.Set("X-ClickHouse-User", a.Server.User)
		req.Header.Set("X-ClickHouse-Key", a.Server.Password)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: a.Server.TLS, DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err != nil {
			fail(err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			answer, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // what there is of it
			fail(&serverError{resp.Header.Get("X-ClickHouse-Exception-Code"), string(bytes.TrimSpace(answer))})
			return
		}
		records, err := ipc.NewReader(resp.Body, ipc.WithAllocator(memory.NewGoAllocator()))
		if errors.Is(err, io.EOF) {
			return // not a row
		}
		if err != nil {
			fail(err)
			return
		}
		defer records.Release()
		for records.Next() {
			if !yield(records.Record(), nil) {
				return
			}
		}
		if err := records.Err(); err != nil && !errors.Is(err, io.EOF) {
			fail(err)
		}
	}
}

// archivedRows are the columns of a record that make up events.
type archivedRows struct {
	n                             int
	seq                           *array.Uint64
	schema                        *array.Uint32
	received                      *array.Timestamp
	unit                          arrow.TimeUnit
	message, subject, id, payload *array.Binary
}

func archivedOf(r arrow.Record) (*archivedRows, error) {
	c := &archivedRows{n: int(r.NumRows())}
	var ok [7]bool
	if r.NumCols() == 7 {
		c.seq, ok[0] = r.Column(0).(*array.Uint64)
		c.received, ok[1] = r.Column(1).(*array.Timestamp)
		c.schema, ok[2] = r.Column(2).(*array.Uint32)
		for i, column := range []**array.Binary{&c.message, &c.subject, &c.id, &c.payload} {
			*column, ok[3+i] = r.Column(3 + i).(*array.Binary)
		}
	}
	if ok != [7]bool{true, true, true, true, true, true, true} {
		return nil, fmt.Errorf("read archived events: columns are %s", r.Schema())
	}
	c.unit = c.received.DataType().(*arrow.TimestampType).Unit
	return c, nil
}

// event makes an event of a row: all that the log knew of it is there, but for
// what its arrival had below a microsecond.
func (c *archivedRows) event(i int, of events.Position) (e events.Event, err error) {
	of.Seq = c.seq.Value(i)
	subject := string(c.subject.Value(i))
	if e.Stream, e.Type, _, err = events.ParseSubject(subject); err != nil {
		return e, &history.MissingError{First: of, Last: of.Seq, Count: 1, Where: "ClickHouse's table events, where a row is damaged (" + err.Error() + "),"}
	}
	if e.Type == "" { // it stands in the subject, but for control facts
		e.Type = string(c.message.Value(i))
	}
	e.Position, e.ID, e.Schema = of, string(c.id.Value(i)), c.schema.Value(i)
	e.Received = c.received.Value(i).ToTime(c.unit).UTC()
	e.Payload = c.payload.Value(i)
	return e, nil
}
