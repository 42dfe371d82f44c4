package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An Engine is a running ClickHouse. When the child dies unasked it is started
// again on the same ports, with a growing pause.
type Engine struct {
	cfg          Config
	native, http string
	orders       order
	client       *http.Client

	cancel context.CancelFunc // tells the supervisor to stop
	done   chan struct{}      // closed when it has

	mu    sync.Mutex
	child *process
	down  error // why it does not serve at the moment
}

// ErrFolderInUse tells that another engine works in the folder.
var ErrFolderInUse = errors.New("another ClickHouse works in this folder")

// Start starts an engine and returns when it answers.
//
// Errors: ErrFolderInUse; a taken port is syscall.EADDRINUSE.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	e, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start ClickHouse: %w", err)
	}
	return e, nil
}

func start(ctx context.Context, cfg Config) (*Engine, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, done: make(chan struct{}),
		// No proxy, and no connection left idle: the engine would wait for it.
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second},
	}
	if err := confinable(); err != nil {
		cfg.Logger.Warn("ClickHouse cannot be confined to its folder here: whoever may query it can read every file that this process can", "error", err)
	}
	var err error
	if e.native, err = cfg.freeAddress(cfg.NativePort); err != nil {
		return nil, fmt.Errorf("native port: %w", err)
	}
	if e.http, err = cfg.freeAddress(cfg.HTTPPort); err != nil {
		return nil, fmt.Errorf("HTTP port: %w", err)
	}
	settings, err := cfg.writeSettings()
	if err != nil {
		return nil, err
	}
	e.orders = e.order(settings)
	if e.child, err = e.spawnFirst(ctx); err != nil {
		return nil, err
	}
	supervising, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	go e.supervise(supervising)
	return e, nil
}

// freeAddress says early and clearly when a port is taken.
func (c *Config) freeAddress(port int) (string, error) {
	var listen net.ListenConfig
	if c.Reserved {
		listen.Control = func(_, _ string, conn syscall.RawConn) (err error) {
			return errors.Join(conn.Control(func(socket uintptr) { err = sharing(socket) }), err)
		}
	}
	l, err := listen.Listen(context.Background(), "tcp", net.JoinHostPort(c.Host, strconv.Itoa(port)))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// order is what the child does: open the listeners, and stay.
func (e *Engine) order(settings string) order {
	_, native, _ := net.SplitHostPort(e.native) // from a listener
	_, http, _ := net.SplitHostPort(e.http)
	return order{
		Library: e.cfg.Library, HTTP: e.http, User: WriterUser, Password: e.cfg.WriterPassword,
		Args: []string{
			"--path=" + filepath.Join(e.cfg.Dir, "store"), "--config-file=" + settings, "--log-level=warning", "--max_concurrent_queries_for_all_users=0", "--max_query_size=262144",
			"--listen_host=" + e.cfg.Host, "--tcp_port=" + native, "--http_port=" + http, "--query",
			"SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; " +
				"SELECT sleepEachRow(0.2) FROM numbers(1000000000000) FORMAT Null SETTINGS max_block_size=1",
		},
	}
}

// spawnFirst waits a while for the folder: a predecessor that lost its parent a
// moment ago may still be stopping.
func (e *Engine) spawnFirst(ctx context.Context) (*process, error) {
	locked := false
	for deadline := time.Now().Add(stopTime + 2*time.Second); ; {
		p, err := e.spawn(ctx)
		if err == nil {
			return p, nil
		}
		locked = locked || strings.Contains(err.Error(), "Cannot lock file")
		switch {
		case !locked:
			return nil, err
		case ctx.Err() != nil || time.Now().After(deadline):
			return nil, fmt.Errorf("%s: %w", e.cfg.Dir, ErrFolderInUse)
		}
		wait(ctx, 300*time.Millisecond)
	}
}

// spawn starts a child and returns when it answers.
func (e *Engine) spawn(ctx context.Context) (*process, error) {
	p, err := startProcess(e.orders, e.cfg.Dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		err := e.ping(ctx)
		if err == nil {
			return p, nil
		}
		select {
		case <-p.exited:
			return nil, p.why()
		case <-ctx.Done():
			p.kill()
			return nil, fmt.Errorf("no answer: %w: %s", err, p.stderr)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// startTime is how long a start may take: tables are loaded meanwhile.
const startTime = 2 * time.Minute

func (e *Engine) ping(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.http+"/ping", nil)
	if err != nil {
		return err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(io.LimitReader(resp.Body, 16)); err != nil || string(b) != "Ok.\n" {
		return fmt.Errorf("what answers at %s is no ClickHouse: %q, %w", e.http, b, err)
	}
	return nil
}

// NativeAddr is host:port of the native protocol.
func (e *Engine) NativeAddr() string { return e.native }

// HTTPAddr is host:port of the HTTP interface.
func (e *Engine) HTTPAddr() string { return e.http }

// Dir returns the folder of everything that the engine keeps.
func (e *Engine) Dir() string { return e.cfg.Dir }

// Writer returns the credentials of the user that owns the database.
func (e *Engine) Writer() (user, password string) { return WriterUser, e.cfg.WriterPassword }

// Query returns the credentials of the user that reads for strangers.
func (e *Engine) Query() (user, password string) { return QueryUser, e.cfg.QueryPassword }

// Analyst returns the credentials of the user that only reads.
func (e *Engine) Analyst() (user, password string) { return AnalystUser, e.cfg.AnalystPassword }

// Down returns nil while the engine serves, and what is wrong while it is
// being started again.
func (e *Engine) Down() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.down
}

// PID returns the child's process id, for tests that end it.
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.child.cmd.Process.Pid
}

// Stop ends the engine in order, and the hard way when ctx ends first. Close
// what is connected to it before: it waits for idle connections.
func (e *Engine) Stop(ctx context.Context) error {
	e.cancel()
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
	}
	e.mu.Lock()
	child := e.child
	e.mu.Unlock()
	child.kill()
	<-e.done
	return fmt.Errorf("stop ClickHouse: it had to be killed: %w", ctx.Err())
}
