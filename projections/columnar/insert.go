package columnar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/ipc"
)

// A serverError is ClickHouse's own refusal.
type serverError struct {
	code string // X-ClickHouse-Exception-Code
	text string
}

func (e *serverError) Error() string { return e.text }

// insert streams the records into a table as Arrow, without converting them.
// Whatever it returns, a part of the rows may be in the table: only nil tells.
func (w *Writer) insert(ctx context.Context, queryID string, blk *block, records []arrow.Record) error {
	names, input := make([]string, len(blk.columns)), make([]string, len(blk.columns))
	for i, c := range blk.columns {
		names[i] = quote(c.Name)
		input[i] = quote(c.Name) + " " + c.Type
	}
	list := strings.Join(names, ", ")
	sql := fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM input(%s) WHERE %s FORMAT ArrowStream",
		w.table(blk.table), list, list, text(strings.Join(input, ", ")), w.fence())
	q := url.Values{
		"query": {sql}, "query_id": {queryID},
		"async_insert":                    {"0"}, // its acknowledgement would not mean stored
		"wait_end_of_query":               {"1"}, // so that the status is the outcome
		"max_insert_block_size":           {"1048576"},
		"max_partitions_per_insert_block": {"1000"},
		"insert_null_as_default":          {"0"},
	}
	reader, writer := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		out := ipc.NewWriter(writer, w.ipcOptions(blk.record.Schema())...)
		for _, r := range records {
			if err := out.Write(r); err != nil {
				writer.CloseWithError(err)
				return
			}
		}
		writer.CloseWithError(out.Close())
	}()
	defer func() { // the records' memory is used again once they are released
		_ = reader.Close()
		<-written
	}()
	return w.post(ctx, q, reader)
}

// ipcOptions compresses what goes over a network: on loopback it would cost
// more than it saves.
func (w *Writer) ipcOptions(schema *arrow.Schema) []ipc.Option {
	options := []ipc.Option{ipc.WithSchema(schema)}
	if !w.cfg.Server.loopback() {
		options = append(options, ipc.WithLZ4())
	}
	return options
}

// post sends a statement. An error that is not a *serverError leaves open what
// became of it.
func (w *Writer) post(ctx context.Context, q url.Values, body io.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.Server.URL+"/?"+q.Encode(), body)
	if err != nil {
		return err
	}
	req.Header.Set("X-ClickHouse-User", w.cfg.Server.User)
	req.Header.Set("X-ClickHouse-Key", w.cfg.Server.Password)
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &serverError{resp.Header.Get("X-ClickHouse-Exception-Code"), string(bytes.TrimSpace(answer))}
	}
	return nil
}

// hopeless tells a refusal that waiting does not mend. The writer goes on
// trying all the same, as a person may mend it, but says so loudly.
func hopeless(err error) bool {
	var s *serverError
	if !errors.As(err, &s) {
		return false
	}
	switch s.code {
	case "252", "241", "242", "159", "202", "319", "394", "999", "1000", "210", "209", "236", "395", "": // too many parts, memory, read only, time-outs, cancelled, network, the fence
		return false
	}
	return true
}
