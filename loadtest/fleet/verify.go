package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

// Verify holds what devices were acknowledged against the log, tacho.events
// and the messages' tables. It first waits until ClickHouse has what the log
// has, up to patience.
func (n *Node) Verify(ctx context.Context, acknowledged []ledger.Entry, patience time.Duration) (ledger.Verdict, error) {
	fail := func(err error) (ledger.Verdict, error) { return ledger.Verdict{}, fmt.Errorf("verify: %w", err) }
	devices, types := map[string]bool{}, map[string]bool{}
	for _, e := range acknowledged {
		devices[e.Device], types[e.Type] = true, true
	}
	log, altered := ledger.Counts{}, 0
	total := 0
	for device := range devices {
		found, bad, err := n.readLog(ctx, device, log)
		if err != nil {
			return fail(err)
		}
		total += found
		altered += bad
	}
	if err := n.awaitRows(ctx, devices, total, patience); err != nil {
		return fail(err)
	}
	rows, err := n.Query(ctx, "SELECT device, message, id, base64Encode(payload) FROM tacho.events WHERE kind = 'telemetry' FORMAT TSV")
	if err != nil {
		return fail(err)
	}
	stored := ledger.Counts{}
	for line := range strings.Lines(rows) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		payload, err := base64.StdEncoding.DecodeString(f[len(f)-1])
		if err != nil || len(f) != 4 {
			return fail(fmt.Errorf("row %q of tacho.events", line))
		}
		e := ledger.Entry{Device: f[0], Type: f[1], ID: f[2]}
		if devices[e.Device] && events.DeriveID(e.Device, e.Type, payload) != e.ID {
			altered++
		}
		stored[e]++
	}
	table := ledger.Counts{}
	for typ := range types {
		rows, err := n.Query(ctx, fmt.Sprintf("SELECT device, _id, count() FROM tacho.`%s` GROUP BY device, _id FORMAT TSV", typ))
		if err != nil {
			return fail(err)
		}
		for line := range strings.Lines(rows) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			count, err := strconv.Atoi(f[len(f)-1])
			if err != nil || len(f) != 3 {
				return fail(fmt.Errorf("row %q of tacho.%s", line, typ))
			}
			if devices[f[0]] {
				table[ledger.Entry{Device: f[0], Type: typ, ID: f[1]}] = count
			}
		}
	}
	return ledger.Judge(acknowledged, log, stored, table, altered), nil
}

// readLog counts a device's events as the log itself has them.
func (n *Node) readLog(ctx context.Context, device string, into ledger.Counts) (found, altered int, err error) {
	token, err := secretOf(n.AdminTokenFile)
	if err != nil {
		return 0, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/v1/events?kind=telemetry&device="+url.QueryEscape(device), nil)
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return 0, 0, fmt.Errorf("events of %s: %s: %s", device, resp.Status, b)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			ID, Type string
			Data     json.RawMessage
			Base64   []byte `json:"data_base64"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return 0, 0, fmt.Errorf("events of %s: %w", device, err)
		}
		payload := e.Base64
		if e.Data != nil {
			payload = bytes.Clone(e.Data)
		}
		found++
		if events.DeriveID(device, e.Type, payload) != e.ID {
			altered++
		}
		into[ledger.Entry{Device: device, Type: e.Type, ID: e.ID}]++
	}
	return found, altered, lines.Err()
}

func (n *Node) awaitRows(ctx context.Context, devices map[string]bool, want int, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		got, err := n.Query(ctx, "SELECT device, count() FROM tacho.events WHERE kind = 'telemetry' GROUP BY device FORMAT TSV")
		sum := 0
		if err == nil {
			for line := range strings.Lines(got) {
				device, count, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
				if c, err := strconv.Atoi(count); err == nil && devices[device] {
					sum += c
				}
			}
			if sum >= want {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("ClickHouse has %d of the %d events of the log after %s (last error: %v)", sum, want, patience, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
