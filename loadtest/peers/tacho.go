package peers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// Tacho is a node with a data folder, started for the measurement.
type Tacho struct {
	*child
	Node *fleet.Node

	tokens map[string]string
}

// StartTacho runs tacho serve on free ports and waits until it is ready.
func StartTacho(ctx context.Context, program, dir string, flags ...string) (_ *Tacho, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s: %w", program, err)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// A predecessor's addresses would be believed.
	if err := os.Remove(filepath.Join(dir, "addresses.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	t := &Tacho{}
	t.child, err = startChild(exec.Command(program, append([]string{"serve", "--data", dir, "--ports", "auto"}, flags...)...), filepath.Clean(dir)+".log")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.stop())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for t.Node == nil {
		select {
		case <-t.exited:
			return nil, fmt.Errorf("it ended; see %s", t.log.Name())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if t.Node, err = fleet.Find(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return t, t.Node.AwaitReady(ctx)
}

// Stop ends the node.
func (t *Tacho) Stop() error { return t.stop() }

// PID is the node's process.
func (t *Tacho) PID() int { return t.pid() }

// Register adds devices, so that Login knows them.
func (t *Tacho) Register(ctx context.Context, devices []string) (err error) {
	t.tokens, err = t.Node.Tokens(ctx, devices)
	return err
}

// Login is the device's name and token.
func (t *Tacho) Login(device string) (user, password string) { return device, t.tokens[device] }

// Topic is the short form; the identity is the connection's.
func (t *Tacho) Topic(string) string { return "telemetry/position" }

// Counters of /metrics.
const (
	storedCounter = `tacho_gateway_messages_total{via="mqtt"}`
	syncsCounter  = `tacho_log_syncs_total`
)

// Stored is how many messages from MQTT the gateway says it has stored.
func (t *Tacho) Stored(ctx context.Context) (int, error) {
	n, ok, err := t.counter(ctx, storedCounter)
	if err == nil && !ok {
		err = errors.New("metrics: no " + storedCounter)
	}
	return n, err
}

// Syncs is how many fsyncs the log has made; false if the node doesn't say.
func (t *Tacho) Syncs(ctx context.Context) (n int, ok bool, err error) {
	return t.counter(ctx, syncsCounter)
}

func (t *Tacho) counter(ctx context.Context, name string) (n int, ok bool, err error) {
	token, err := os.ReadFile(t.Node.AdminTokenFile)
	if err != nil {
		return 0, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.Node.HTTP+"/metrics", nil)
	if err != nil {
		return 0, false, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, false, fmt.Errorf("metrics: %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, found := strings.CutPrefix(lines.Text(), name+" "); found {
			v, err := strconv.ParseFloat(value, 64)
			return int(v), err == nil, err
		}
	}
	return 0, false, lines.Err()
}
