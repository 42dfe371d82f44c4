// Package fleet plays devices: the recorded drives of the demo and loads of
// simulated cars, over real MQTT, HTTP and NATS. It knows of a node only what
// anybody can: its addresses.json and its public interfaces.
package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A Node is a running Tachograph as its data folder describes it.
type Node struct {
	Dir string `json:"-"`

	MQTT                   string `json:"mqtt"`
	HTTP                   string `json:"http"`
	NATS                   string `json:"nats"`
	ClickHouseHTTP         string `json:"clickhouse_http"`
	ClickHouseNative       string `json:"clickhouse_native"`
	ClickHouseUser         string `json:"clickhouse_user"`
	ClickHousePasswordFile string `json:"clickhouse_password_file"`
	NATSUser               string `json:"nats_user"`
	NATSPasswordFile       string `json:"nats_password_file"`
	AdminTokenFile         string `json:"admin_token_file"`
	PID                    int    `json:"pid"`
}

// Find reads a node's addresses. Those that are not on this machine are
// refused: a load belongs on a machine of one's own.
func Find(dir string) (*Node, error) {
	n, err := FindAnywhere(dir)
	if err != nil {
		return nil, err
	}
	for _, addr := range []string{n.MQTT, n.HTTP, n.NATS, n.ClickHouseHTTP, n.ClickHouseNative} {
		if addr == "" {
			continue // that process does not run it
		}
		if !strings.Contains(addr, "://") {
			addr = "tcp://" + addr
		}
		u, err := url.Parse(addr)
		if err != nil {
			return nil, fmt.Errorf("find node: %w", err)
		}
		if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("find node: %q is not on loopback", addr)
		}
	}
	return n, nil
}

// FindAnywhere is Find for a node that may be on another machine.
func FindAnywhere(dir string) (*Node, error) {
	b, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	if err != nil {
		return nil, fmt.Errorf("find node (is one running with --data %s?): %w", dir, err)
	}
	n := &Node{Dir: dir}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("find node: addresses.json: %w", err)
	}
	return n, nil
}

func secretOf(file string) (string, error) {
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)), err
}

// client is for questions whose answer may be all that a node has.
var client = &http.Client{Timeout: 10 * time.Minute}

// call asks the API as the administrator and decodes a JSON answer into out.
func (n *Node) call(ctx context.Context, method, path string, in, out any) (status int, err error) {
	token, err := secretOf(n.AdminTokenFile)
	if err != nil {
		return 0, err
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.HTTP+path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return resp.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if out == nil {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.NewDecoder(resp.Body).Decode(out)
}

// AwaitReady waits until the node says that everything it runs serves.
func (n *Node) AwaitReady(ctx context.Context) error {
	for {
		status, err := n.call(ctx, http.MethodGet, "/readyz", nil, nil)
		if status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the node: %w (%w)", ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Register adds a device and returns its token; a device that exists gets a new one.
func (n *Node) Register(ctx context.Context, device string) (token string, err error) {
	var answer struct {
		Token string `json:"token"`
	}
	status, err := n.call(ctx, http.MethodPost, "/v1/devices", map[string]string{"id": device}, &answer)
	if status == http.StatusConflict {
		_, err = n.call(ctx, http.MethodPost, "/v1/devices/"+url.PathEscape(device)+"/token", nil, &answer)
	}
	if err == nil && answer.Token == "" {
		err = errors.New("no token in the answer")
	}
	return answer.Token, err
}

// AddSchema registers a message type.
func (n *Node) AddSchema(ctx context.Context, name, source string) error {
	_, err := n.call(ctx, http.MethodPost, "/v1/schemas", map[string]string{"name": name, "text": source}, nil)
	return err
}

// Query asks ClickHouse as the analyst and returns its short answer as text.
func (n *Node) Query(ctx context.Context, sql string) (string, error) {
	body, err := n.ask(ctx, sql)
	if err != nil {
		return "", err
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	return strings.TrimSuffix(string(b), "\n"), err
}

// ask asks ClickHouse as the analyst.
func (n *Node) ask(ctx context.Context, sql string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.ClickHouseHTTP+"/", strings.NewReader(sql))
	if err != nil {
		return nil, err
	}
	if n.ClickHouseUser != "" { // an existing ClickHouse has users of its own
		password, err := secretOf(n.ClickHousePasswordFile)
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-ClickHouse-User", n.ClickHouseUser)
		req.Header.Set("X-ClickHouse-Key", password)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, fmt.Errorf("query ClickHouse: %s", bytes.TrimSpace(b))
	}
	return resp.Body, nil
}

// Tokens registers devices and keeps their tokens, mode 0600, so that the next
// start finds them. What it got before an error is kept as well.
func (n *Node) Tokens(ctx context.Context, devices []string) (_ map[string]string, err error) {
	file := filepath.Join(n.Dir, "fleet", "tokens.json")
	tokens := map[string]string{}
	if b, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(b, &tokens); err != nil {
			return nil, fmt.Errorf("tokens: %s: %w", file, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	known := len(tokens)
	defer func() {
		if len(tokens) > known {
			err = errors.Join(err, writeJSON(file, tokens))
		}
	}()
	for _, device := range devices {
		if tokens[device] != "" {
			continue
		}
		token, err := n.Register(ctx, device)
		if err != nil {
			return nil, fmt.Errorf("register %s: %w", device, err)
		}
		tokens[device] = token
	}
	return tokens, nil
}

// writeJSON replaces a file that only its owner may read.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
