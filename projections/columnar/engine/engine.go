package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config of an engine.
type Config struct {
	Dir     string // everything the engine keeps
	Library string // from Fetch

	Host                 string // to listen on; "" is 127.0.0.1
	NativePort, HTTPPort int    // 0: a free one

	Database                        string // the one the users may see; "" is tacho
	WriterPassword, AnalystPassword string
	Memory                          int64 // bytes the server may use; 0 is 4 GiB
	Sync                            bool  // fsync every part before an insert is acknowledged

	Logger *slog.Logger
}

// An Engine is a running ClickHouse. When the child dies unasked it is started
// again on the same ports, with a growing pause.
type Engine struct {
	cfg          Config
	native, http string
	configPath   string

	mu       sync.Mutex
	child    *child
	stopping bool
	done     chan struct{} // closed when the supervisor has ended
	starts   int
}

type child struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *tail
	exited chan struct{}
	err    error
}

// Start starts an engine and returns when it answers.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Database == "" {
		cfg.Database = "tacho"
	}
	if cfg.Memory == 0 {
		cfg.Memory = 4 << 30
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start ClickHouse: %w", err)
	}
	cfg.Dir = dir
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start ClickHouse: %w", err)
	}
	e := &Engine{cfg: cfg, done: make(chan struct{})}
	for _, port := range []struct {
		name string
		n    int
		addr *string
	}{{"native", cfg.NativePort, &e.native}, {"HTTP", cfg.HTTPPort, &e.http}} {
		if *port.addr, err = freeAddress(cfg.Host, port.n); err != nil {
			return nil, fmt.Errorf("start ClickHouse: %s port: %w", port.name, err)
		}
	}
	if e.configPath, err = cfg.writeConfig(); err != nil {
		return nil, fmt.Errorf("start ClickHouse: %w", err)
	}
	if e.child, err = e.spawnUnlocked(ctx); err != nil {
		return nil, fmt.Errorf("start ClickHouse: %w", err)
	}
	go e.supervise()
	return e, nil
}

// ErrFolderInUse tells that another engine works in the folder.
var ErrFolderInUse = errors.New("another ClickHouse works in this folder")

// spawnUnlocked waits a while for the folder: a predecessor that lost its
// parent a moment ago may still be stopping.
func (e *Engine) spawnUnlocked(ctx context.Context) (*child, error) {
	locked := false
	for deadline := time.Now().Add(15 * time.Second); ; {
		c, err := e.spawn(ctx)
		if err == nil {
			return c, nil
		}
		locked = locked || strings.Contains(err.Error(), "Cannot lock file")
		switch {
		case !locked:
			return nil, err
		case ctx.Err() != nil || time.Now().After(deadline):
			return nil, fmt.Errorf("%s: %w", e.cfg.Dir, ErrFolderInUse)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// freeAddress says early and clearly when a port is taken.
func freeAddress(host string, port int) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (e *Engine) spawn(ctx context.Context) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	_, nativePort, _ := net.SplitHostPort(e.native)
	_, httpPort, _ := net.SplitHostPort(e.http)
	o := order{Library: e.cfg.Library, HTTP: e.http, User: WriterUser, Password: e.cfg.WriterPassword, Args: []string{
		"--path=" + filepath.Join(e.cfg.Dir, "store"), "--config-file=" + e.configPath,
		"--listen_host=" + e.cfg.Host, "--tcp_port=" + nativePort, "--http_port=" + httpPort, "--query",
		"SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; " +
			"SELECT sleepEachRow(0.2) FROM numbers(1000000000000) FORMAT Null SETTINGS max_block_size=1",
	}}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Dir = e.cfg.Dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin, stderr: &tail{}, exited: make(chan struct{})}
	cmd.Stderr = c.stderr
	setProcessGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.err = cmd.Wait()
		close(c.exited)
	}()
	if err := json.NewEncoder(stdin).Encode(o); err != nil {
		c.kill()
		return nil, fmt.Errorf("give orders: %w: %s", err, c.stderr)
	}
	e.starts++
	if err := e.awaitPing(ctx, c); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.exited
}

func (e *Engine) awaitPing(ctx context.Context, c *child) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.http+"/ping", nil)
		if err != nil {
			return err
		}
		req.Close = true
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return nil
		}
		select {
		case <-c.exited:
			return fmt.Errorf("it ended at once (%v): %s", c.err, c.stderr)
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w: %s", ctx.Err(), c.stderr)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// supervise starts the child again when it dies.
func (e *Engine) supervise() {
	defer close(e.done)
	pause := 100 * time.Millisecond
	for {
		e.mu.Lock()
		c := e.child
		e.mu.Unlock()
		started := time.Now()
		<-c.exited
		for {
			e.mu.Lock()
			stopping := e.stopping
			e.mu.Unlock()
			if stopping {
				return
			}
			if time.Since(started) > time.Minute {
				pause = 100 * time.Millisecond
			}
			e.cfg.Logger.Error("ClickHouse ended; starting it again", "error", c.err, "stderr", c.stderr.String(), "pause", pause)
			time.Sleep(pause)
			pause = min(2*pause, 10*time.Second)
			next, err := e.spawn(context.Background())
			if err != nil {
				e.cfg.Logger.Error("ClickHouse cannot be started", "error", err)
				continue
			}
			e.mu.Lock()
			e.child = next
			if e.stopping {
				_ = next.stdin.Close()
			}
			e.mu.Unlock()
			break
		}
	}
}

// NativeAddr and HTTPAddr are host:port of ClickHouse's own listeners.
func (e *Engine) NativeAddr() string { return e.native }

// HTTPAddr is host:port of the HTTP interface.
func (e *Engine) HTTPAddr() string { return e.http }

// Writer returns the credentials of the user that owns the database.
func (e *Engine) Writer() (user, password string) { return WriterUser, e.cfg.WriterPassword }

// Analyst returns the credentials of the user that only reads.
func (e *Engine) Analyst() (user, password string) { return AnalystUser, e.cfg.AnalystPassword }

// PID returns the child's process id, for tests that end it.
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.child.cmd.Process.Pid
}

// Stop ends the engine in order, and the hard way when ctx ends first.
func (e *Engine) Stop(ctx context.Context) error {
	e.mu.Lock()
	e.stopping = true
	c := e.child
	_ = c.stdin.Close()
	e.mu.Unlock()
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		c.kill()
		return fmt.Errorf("stop ClickHouse: it had to be killed: %w", ctx.Err())
	}
}

// A tail keeps the last of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if excess := len(t.b) - 4096; excess > 0 {
		t.b = t.b[excess:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
