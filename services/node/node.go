package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/forgotten"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/letters"
	"github.com/tachograph/tachograph/services/query"
	"github.com/tachograph/tachograph/services/replays"
	"github.com/tachograph/tachograph/services/retention"
	"github.com/tachograph/tachograph/services/roster"
	"github.com/tachograph/tachograph/services/shadows"
)

// Node is a running process of Tachograph.
type Node struct {
	cfg    Config
	logger *slog.Logger
	addrs  Addresses

	refill      bool                   // only the log is opened, to be refilled
	seams       map[uint16]events.Seam // that it shall have then
	logConfig   jetlog.Config
	log         *jetlog.Log
	appends     events.Log // the log as others see it: it refuses when the disk is nearly full
	opening     *opening
	history     events.Log // the log and what was purged from it; nil where no projections run
	catalog     *catalog.Catalog
	auth        *auth.Directory
	gateway     *gateway.Gateway
	shadows     *shadows.Shadows
	commands    *commands.Commands
	roster      *roster.Roster
	services    *nats.Conn // to the account of the views
	views       jetstream.KeyValue
	past        *latest.Past
	replays     map[string]*replays.Replays // by projection; nil: none here
	viewReplay  *latest.Replay
	letters     *letters.Letters // nil: the same
	audit       *columnar.Audit  // nil: no projections here
	janitor     *retention.Janitor
	compactor   *retention.Compactor
	swaps       sync.Mutex    // held while an unfinished swap of tables is looked for
	queries     *query.Client // nil: no ClickHouse to ask
	ledger      *forgotten.Ledger
	forgetter   *retention.Forgetter
	restartable map[uint16][2]*projections.Restartable // by partition of telemetry: the writer of ClickHouse, and latest
	metrics     *prometheus.Registry
	runners     []projections.Runner
	shards      columnar.Shards
	embedded    *embedded     // nil: an existing cluster
	engineReady chan struct{} // closed once the embedded ClickHouse answers; nil for an existing one
	natsConn    *nats.Conn    // to the account of the log
	disk        *diskGuard
	broken      chan struct{} // see Broken

	mu      sync.Mutex
	engine  *engine.Engine    // nil until it has started
	waiting map[string]string // what is not ready, and why
	undo    []undo            // in the order of the starts; Stop goes backwards

}

type undo struct {
	what string
	stop func(context.Context) error
}

// Start starts what the configuration says and returns when all listeners are
// open. ClickHouse and the projections may still be coming up: see Ready.
func Start(ctx context.Context, cfg Config, logger *slog.Logger) (_ *Node, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, logger: logger, waiting: map[string]string{}, restartable: map[uint16][2]*projections.Restartable{}, broken: make(chan struct{}), metrics: prometheus.NewRegistry()}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			err = errors.Join(err, n.Stop(stopping))
		}
	}()
	// Connections beyond the limit of open files would take those of the log.
	if files := raiseFileLimit(); files > 0 && cfg.Has("gateway") {
		if most := max(int(min(files, 1<<30))-1024, 64); most < cfg.MaxConnections {
			logger.Info("open files limit the connections; ulimit -n raises it", "files", files, "connections", most)
			n.cfg.MaxConnections = most
		}
	}
	for _, step := range []func(context.Context) error{
		n.startFolder, n.startPorts, n.startLog, n.startDirectory, n.makeGateway, n.startRoster, n.startShadows, n.startCommands, n.startEngine, n.startProjections, n.startRetention, n.startGateway, n.startQueries, n.startAPI, n.startAddresses,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	n.opening.over()
	return n, nil
}

// Stop stops everything in the reverse order of its start: the listeners first,
// the log last. It is safe to call once.
func (n *Node) Stop(ctx context.Context) error {
	n.mu.Lock()
	steps := n.undo
	n.undo = nil
	n.mu.Unlock()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if err := steps[i].stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", steps[i].what, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) onStop(what string, stop func(context.Context) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.undo = append(n.undo, undo{what, stop})
}

// run keeps a part at work until Stop reaches it. A part that ends by itself
// leaves the node running, not ready, and says why.
func (n *Node) run(what string, work func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := work(ctx); err != nil && ctx.Err() == nil {
			n.logger.Error(what+" stopped", "error", err)
			n.setWaiting(what, err.Error())
		}
	}()
	n.onStop(what, func(stopping context.Context) error {
		cancel()
		select {
		case <-ended:
			return nil
		case <-stopping.Done():
			return stopping.Err()
		}
	})
}

func (n *Node) setWaiting(what, why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if why == "" {
		delete(n.waiting, what)
	} else {
		n.waiting[what] = why
	}
}

// Ready tells whether everything the process runs serves, and if not, what does not.
func (n *Node) Ready() (ok bool, why []string) {
	n.mu.Lock()
	for what, reason := range n.waiting {
		why = append(why, what+": "+reason)
	}
	if n.engine != nil {
		if err := n.engine.Down(); err != nil {
			why = append(why, "ClickHouse: being started again: "+err.Error())
		}
	}
	n.mu.Unlock()
	if n.natsConn != nil && !n.natsConn.IsConnected() {
		why = append(why, "NATS: not connected")
	}
	slices.Sort(why)
	for _, r := range n.runners {
		s := r.Status()
		switch {
		case s.LastError != "" && !s.CaughtUp:
		case !s.Resumed:
			s.LastError = "has not reached its result yet"
		default:
			continue
		}
		why = append(why, fmt.Sprintf("%s of partition %d: %s", s.Name, s.Partition, s.LastError))
	}
	return len(why) == 0, why
}

// Addresses says where the node listens.
func (n *Node) Addresses() Addresses { return n.addrs }

func (n *Node) startFolder(context.Context) error {
	f, err := lockFolder(n.cfg.Data)
	if err != nil {
		return err
	}
	n.onStop("data folder", func(context.Context) error { return f.Close() })
	// What a killed predecessor left would lead nowhere, or to somebody else.
	if err := os.Remove(n.cfg.file(addressesFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

// startPorts says early, and of all at once, which ports are taken.
func (n *Node) startPorts(context.Context) error {
	if n.cfg.Ports == "auto" {
		return nil
	}
	embeddedClickHouse := n.cfg.embedsClickHouse()
	var errs []error
	for _, p := range []struct {
		used bool
		host string
		flag string
		port int
	}{
		{n.cfg.Has("gateway"), n.cfg.Host, "mqtt-port", n.cfg.MQTTPort},
		{true, n.cfg.Host, "http-port", n.cfg.HTTPPort},
		{n.cfg.NATS == "", n.cfg.NATSHost, "nats-port", n.cfg.NATSPort},
		{embeddedClickHouse, n.cfg.ClickHouseHost, "clickhouse-native-port", n.cfg.ClickHouseNativePort},
		{embeddedClickHouse, n.cfg.ClickHouseHost, "clickhouse-http-port", n.cfg.ClickHouseHTTPPort},
	} {
		if p.used {
			if _, err := n.freePort(p.host, p.port, p.flag); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// startDirectory folds what gateway, projections and API share.
func (n *Node) startDirectory(ctx context.Context) (err error) {
	if n.catalog, err = catalog.Open(ctx, n.appends, n.logger); err != nil {
		return err
	}
	n.run("catalog", n.catalog.Run)
	n.past.Log, n.past.Catalog = n.log, n.catalog
	if n.ledger, err = forgotten.Open(ctx, n.appends); err != nil {
		return err
	}
	n.run("ledger of what was forgotten", func(ctx context.Context) error { return n.ledger.Run(ctx, n.appends) })
	if n.auth, err = auth.Open(ctx, n.appends, n.logger); err != nil {
		return err
	}
	n.run("device directory", n.auth.Run)
	if n.embedded != nil {
		check := n.auth.Authenticate
		n.embedded.users.devices.Store(&check)
		n.auth.OnRevoke(n.disconnectNATS)
	}
	return nil
}

// freePort says early when a port is taken; with --ports auto it finds one.
func (n *Node) freePort(host string, port int, flag string) (int, error) {
	l, err := net.Listen("tcp", n.cfg.address(host, port))
	if err != nil {
		return 0, portTaken(flag, err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (n *Node) startAddresses(context.Context) error {
	n.addrs.PID = os.Getpid()
	if err := n.addrs.write(n.cfg.Data); err != nil {
		return err
	}
	n.onStop("addresses", func(context.Context) error { return os.Remove(n.cfg.file(addressesFile)) })
	n.logger.Info("listening", "mqtt", n.addrs.MQTT, "http", n.addrs.HTTP, "nats", n.addrs.NATS,
		"clickhouse_native", n.addrs.ClickHouseNative, "clickhouse_http", n.addrs.ClickHouseHTTP)
	return nil
}

func redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(unreadable URL)"
	}
	u.User = nil
	return u.String()
}
