package columnar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"

	"github.com/apache/arrow/go/v15/arrow/ipc"
)

// answerBytes is what one answer may be at most: differences of one batch.
const answerBytes = 256 << 20

// ask runs a query. Blocks go along as the tables expected0, expected1 ..., in the
// bytes in which they would be inserted, so that ClickHouse makes the same values
// of them; nothing is written.
func (a *auditor) ask(ctx context.Context, sql string, blocks []*block) ([]answerRow, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Patience)
	defer cancel()
	q := url.Values{
		"default_format": {"JSONCompactEachRow"}, "output_format_json_quote_64bit_integers": {"0"}, "wait_end_of_query": {"1"},
		"max_query_size": {"4194304"}, "max_ast_elements": {"1000000"}, "max_expanded_ast_elements": {"2000000"},
	}
	for i, blk := range blocks {
		q.Set(fmt.Sprintf("expected%d_format", i), "ArrowStream")
		q.Set(fmt.Sprintf("expected%d_structure", i), structure(blk.columns))
	}
	reader, writer := io.Pipe()
	defer reader.Close()
	form := multipart.NewWriter(writer)
	go func() {
		writer.CloseWithError(func() error {
			if err := form.WriteField("query", sql); err != nil {
				return err
			}
			for i, blk := range blocks {
				part, err := form.CreateFormFile(fmt.Sprintf("expected%d", i), "rows")
				if err != nil {
					return err
				}
				out := ipc.NewWriter(part, a.ipcOptions(blk.record.Schema())...)
				if err := errors.Join(out.Write(blk.record), out.Close()); err != nil {
					return err
				}
			}
			return form.Close()
		}())
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.cfg.Server.URL+"/?"+q.Encode(), reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	req.Header.Set("X-ClickHouse-User", a.cfg.Server.User)
	req.Header.Set("X-ClickHouse-Key", a.cfg.Server.Password)
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		if err != nil {
			return nil, err
		}
		return nil, &serverError{resp.Header.Get("X-ClickHouse-Exception-Code"), string(bytes.TrimSpace(answer))}
	}
	var rows []answerRow
	for answer := json.NewDecoder(io.LimitReader(resp.Body, answerBytes)); ; {
		var row answerRow
		switch err := answer.Decode(&row); {
		case errors.Is(err, io.EOF):
			return rows, nil
		case err != nil:
			return nil, fmt.Errorf("read an answer of ClickHouse: %w", err)
		}
		rows = append(rows, row)
	}
}
