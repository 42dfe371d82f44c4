package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// status is the one line that tells how the demo goes, and the three to paste.
type status struct {
	out      io.Writer
	terminal bool
	node     *fleet.Node
	demo     *fleet.Demo // nil without one: then there is no line
	before   int64
	at       time.Time
}

func newStatus(n *fleet.Node, d *fleet.Demo) *status {
	info, err := os.Stdout.Stat()
	return &status{out: os.Stdout, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0, node: n, demo: d, at: time.Now()}
}

// run refreshes the line each second on a terminal, and writes one every ten
// seconds elsewhere, until ctx ends.
func (s *status) run(ctx context.Context) {
	every := 10 * time.Second
	if s.terminal {
		every = time.Second
	}
	fmt.Fprintln(s.out, s.hints())
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		line := s.line(ctx)
		if s.terminal {
			fmt.Fprintf(s.out, "\r\x1b[2K%s", line)
		} else {
			fmt.Fprintln(s.out, line)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if s.terminal {
				fmt.Fprintln(s.out)
			}
			return
		}
	}
}

func (s *status) line(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, err := s.node.Query(ctx, "SELECT countIf(kind = 'telemetry' AND startsWith(device, 'bus-')) FROM tacho.events")
	rows, perr := strconv.ParseInt(answer, 10, 64)
	connected, accepted, total := s.demo.Counts()
	now := time.Now()
	rate := float64(accepted-s.before) / now.Sub(s.at).Seconds()
	if s.before == 0 {
		rate = 0
	}
	s.before, s.at = accepted, now
	inClickHouse, lag := "ClickHouse does not answer", "?"
	if err == nil && perr == nil {
		inClickHouse = fmt.Sprintf("%d in ClickHouse", rows)
		lag = strconv.FormatInt(max(accepted-rows, 0), 10)
	}
	return fmt.Sprintf("%d devices | %d of %d events accepted | %s | lag %s | %.0f/s", connected, accepted, total, inClickHouse, lag, rate)
}

// hints are commands that work as they stand.
func (s *status) hints() string {
	device := "bus-2220"
	token := "TOKEN"
	if tokens, err := s.node.Tokens(context.Background(), []string{device}); err == nil {
		token = tokens[device]
	}
	_, port, _ := strings.Cut(s.node.MQTT, ":")
	dir := s.node.Dir
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, dir); err == nil && !strings.HasPrefix(rel, "..") {
			dir = rel
		}
	}
	return fmt.Sprintf(`Paste into another terminal:
  mosquitto_pub -p %s -u %s -P %s -q 1 -t telemetry/position -m '{"latitude":30.27,"longitude":-97.74,"speed":42}'
  curl -s -H "Authorization: Bearer $(cat %s)" http://%s/v1/devices/%s/state
  curl -s -H "X-ClickHouse-User: %s" -H "X-ClickHouse-Key: $(cat %s)" http://%s/ -d 'SELECT device, count(), max(speed) FROM tacho.position GROUP BY device ORDER BY 2 DESC LIMIT 5'
`, port, device, token, filepath.Join(dir, "admin.token"), s.node.HTTP, device,
		s.node.ClickHouseUser, filepath.Join(dir, filepath.Base(s.node.ClickHousePasswordFile)), s.node.ClickHouseHTTP)
}
