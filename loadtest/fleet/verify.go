package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/loadtest/ledger"
)

// Verify holds what devices were acknowledged against the log, tacho.events
// and the messages' tables, byte for byte where there are bytes. It first
// waits until ClickHouse has what the log has of these devices, up to patience.
func (n *Node) Verify(ctx context.Context, acknowledged []ledger.Entry, patience time.Duration) (ledger.Verdict, error) {
	v, err := n.verify(ctx, ledger.NewBook(acknowledged), patience)
	if err != nil {
		return ledger.Verdict{}, fmt.Errorf("verify: %w", err)
	}
	return v, nil
}

func (n *Node) verify(ctx context.Context, book *ledger.Book, patience time.Duration) (v ledger.Verdict, err error) {
	log, stored, table := book.Place(), book.Place(), book.Place()
	total, wanted := 0, map[string]bool{}
	for _, device := range book.Devices() {
		found, err := n.readLog(ctx, device, log)
		if err != nil {
			return v, err
		}
		total += found
		wanted[device] = true
	}
	if err := n.awaitRows(ctx, wanted, total, patience); err != nil {
		return v, err
	}
	err = n.rows(ctx, "SELECT device, message, id, base64Encode(payload) FROM tacho.events WHERE kind = 'telemetry' FORMAT TSV", 4, func(f []string) error {
		if !wanted[f[0]] {
			return nil
		}
		payload, err := base64.StdEncoding.DecodeString(f[3])
		stored.Copy(f[0], f[1], f[2], payload)
		return err
	})
	if err != nil {
		return v, fmt.Errorf("tacho.events: %w", err)
	}
	for _, typ := range book.Types() {
		err := n.rows(ctx, fmt.Sprintf("SELECT device, _id, count() FROM tacho.`%s` GROUP BY device, _id FORMAT TSV", typ), 3, func(f []string) error {
			count, err := strconv.Atoi(f[2])
			table.Rows(f[0], typ, f[1], count)
			return err
		})
		if err != nil {
			return v, fmt.Errorf("tacho.%s: %w", typ, err)
		}
	}
	return book.Judge(log, stored, table), nil
}

// rows asks ClickHouse for TSV of so many columns and passes on each row.
func (n *Node) rows(ctx context.Context, sql string, columns int, each func([]string) error) error {
	body, err := n.ask(ctx, sql)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		if len(f) != columns {
			return fmt.Errorf("row %.200q has %d columns, want %d", lines.Text(), len(f), columns)
		}
		for i := range f {
			f[i] = unescapeTSV.Replace(f[i])
		}
		if err := each(f); err != nil {
			return fmt.Errorf("row %.200q: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

var unescapeTSV = strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n", `\'`, `'`, `\b`, "\b", `\f`, "\f", `\r`, "\r", `\0`, "\x00")

// readLog notes a device's messages as the log itself has them, and how many
// there are.
func (n *Node) readLog(ctx context.Context, device string, into *ledger.Place) (found int, err error) {
	token, err := secretOf(n.AdminTokenFile)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/v1/events?kind=telemetry&data=base64&device="+url.QueryEscape(device), nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return 0, fmt.Errorf("events of %s: %s: %s", device, resp.Status, bytes.TrimSpace(b))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			ID, Type, Device string
			Payload          *[]byte `json:"data_base64"`
			Error            json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return 0, fmt.Errorf("events of %s: %w", device, err)
		}
		switch {
		case e.Error != nil: // after the status had gone out
			return 0, fmt.Errorf("events of %s: %s", device, e.Error)
		case e.Device != device || e.Payload == nil:
			return 0, fmt.Errorf("events of %s: line %.200q", device, lines.Bytes())
		}
		found++
		into.Copy(device, e.Type, e.ID, *e.Payload)
	}
	return found, lines.Err()
}

// awaitRows waits until ClickHouse has as many messages of the devices as the log.
func (n *Node) awaitRows(ctx context.Context, devices map[string]bool, want int, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s are over", patience))
	defer cancel()
	for {
		sum := 0
		err := n.rows(ctx, "SELECT device, count() FROM tacho.events WHERE kind = 'telemetry' GROUP BY device FORMAT TSV", 2, func(f []string) error {
			count, err := strconv.Atoi(f[1])
			if devices[f[0]] {
				sum += count
			}
			return err
		})
		if err == nil && sum >= want {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("ClickHouse has %d of the %d events of the log: %w", sum, want, context.Cause(ctx)), err)
		}
	}
}
