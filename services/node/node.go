package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
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
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/api"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/replays"
	"github.com/tachograph/tachograph/services/roster"
	"github.com/tachograph/tachograph/services/shadows"
)

// Node is a running process of Tachograph.
type Node struct {
	cfg    Config
	logger *slog.Logger
	addrs  Addresses

	log         *jetlog.Log
	appends     events.Log // the log as others see it: it refuses when the disk is nearly full
	catalog     *catalog.Catalog
	auth        *auth.Directory
	gateway     *gateway.Gateway
	shadows     *shadows.Shadows
	commands    *commands.Commands
	roster      *roster.Roster
	services    *nats.Conn // to the account of the views
	views       jetstream.KeyValue
	past        *latest.Past
	replays     *replays.Replays // nil: no projections here
	recovering  sync.Once        // an unfinished swap of tables
	metrics     *prometheus.Registry
	runners     []projections.Runner
	server      columnar.Server
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
	n := &Node{cfg: cfg, logger: logger, waiting: map[string]string{}, broken: make(chan struct{}), metrics: prometheus.NewRegistry()}
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
		n.startFolder, n.startPorts, n.startLog, n.startDirectory, n.makeGateway, n.startRoster, n.startShadows, n.startCommands, n.startEngine, n.startProjections, n.startGateway, n.startAPI, n.startAddresses,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
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
	embeddedClickHouse := n.cfg.Has("project") && n.cfg.ClickHouse == ""
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

// startLog connects to NATS, its own or another, and opens the log.
func (n *Node) startLog(ctx context.Context) error {
	durability, err := jetlog.ParseDurability(n.cfg.Durability)
	if err != nil {
		return err
	}
	cfg := jetlog.Config{
		Durability: durability, Partitions: n.cfg.Partitions, Replicas: n.cfg.Replicas, MaxBytes: n.cfg.LogBytes, Logger: n.logger,
	}
	var services *nats.Conn // in the account of the views
	if n.cfg.NATS != "" {
		nc, err := n.joinNATS(ctx)
		if err != nil {
			return fmt.Errorf("connect to NATS at %s: %w", redacted(n.cfg.NATS), err)
		}
		n.onStop("NATS connection", func(context.Context) error { nc.Close(); return nil })
		cfg.Publish, cfg.Read, services = nc, nc, nc
		n.addrs.NATS = redacted(n.cfg.NATS)
	} else {
		if services, err = n.startEmbeddedNATS(&cfg); err != nil {
			return err
		}
	}
	if n.log, err = jetlog.Open(ctx, cfg); err != nil {
		return err
	}
	n.onStop("log", func(context.Context) error { return n.log.Close() })
	if n.embedded != nil {
		n.run("public subjects", func(ctx context.Context) error { n.log.Announce(ctx); return nil })
	}
	n.appends = n.log
	if n.embedded != nil {
		n.disk = newDiskGuard(n.log, n.cfg.Data, n.cfg.LogReserve)
		n.disk.broken, n.disk.anew = n.embedded.voice.broken, func() { close(n.broken) }
		n.appends = n.disk
		n.metrics.MustRegister(n.disk)
		n.run("disk guard", func(ctx context.Context) error { return n.disk.watch(ctx, n.tellDisk) })
	}
	n.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tacho_log_syncs_total", Help: "Fsyncs of the log's block files that this process has made.",
	}, func() float64 { return float64(n.log.Syncs()) }))
	if d, known := n.log.Durability(); !known {
		n.logger.Warn("whether the NATS server syncs before it acknowledges is its own setting (sync_interval: always) and cannot be seen from here", "durability", d.String())
	}
	js, err := jetstream.New(services)
	if err != nil {
		return err
	}
	n.views, err = js.CreateOrUpdateKeyValue(ctx, latest.BucketConfig(n.cfg.Replicas))
	if err != nil {
		return fmt.Errorf("open view %s: %w", latest.Bucket, err)
	}
	most := n.cfg.SnapshotBytes
	if n.embedded != nil { // the server reserves them: more than there is would refuse the start
		size, err := diskSize(n.cfg.Data)
		if err != nil {
			return err
		}
		most = min(most, size/8)
	}
	snapshots, err := latest.OpenSnapshots(ctx, js, n.cfg.Replicas, most)
	if err != nil {
		return err
	}
	n.past = &latest.Past{Snapshots: snapshots, Logger: n.logger}
	n.natsConn, n.services = cfg.Publish, services
	return nil
}

// tellDisk makes known that the log refuses, or takes in again.
func (n *Node) tellDisk(why string) {
	if why == "" {
		n.logger.Info("the disk has room again; messages are taken in")
	} else {
		n.logger.Error("messages are refused", "reason", why)
	}
	n.setWaiting("disk", why)
}

func (n *Node) startEmbeddedNATS(cfg *jetlog.Config) (services *nats.Conn, err error) {
	password, err := secret(n.cfg.file("nats.listener.password"))
	if err != nil {
		return nil, err
	}
	e, err := startNATS(n.cfg, password, n.logger)
	if err != nil {
		return nil, err
	}
	n.onStop("NATS", func(context.Context) error { e.stop(); return nil })
	n.embedded = e
	n.metrics.MustRegister(e.voice.refused)
	cfg.StoreDir, cfg.Account, cfg.Interest = e.storeDir, logAccount, e
	// Publishing is fastest within the process, reading over TCP.
	if cfg.Publish, err = e.connect(internalLogUser, nats.InProcessServer(e.server)); err != nil {
		return nil, err
	}
	if cfg.Read, err = e.connect(internalLogUser); err != nil {
		return nil, err
	}
	if services, err = e.connect(internalServicesUser, nats.InProcessServer(e.server)); err != nil {
		return nil, err
	}
	n.onStop("NATS connections", func(context.Context) error {
		for _, nc := range []*nats.Conn{cfg.Publish, cfg.Read, services} {
			nc.Close()
		}
		return nil
	})
	n.addrs.NATS, n.addrs.NATSUser, n.addrs.NATSPasswordFile = e.server.ClientURL(), listenerUser, n.cfg.file("nats.listener.password")
	return services, nil
}

// startDirectory folds what gateway, projections and API share.
func (n *Node) startDirectory(ctx context.Context) (err error) {
	if n.catalog, err = catalog.Open(ctx, n.appends, n.logger); err != nil {
		return err
	}
	n.run("catalog", n.catalog.Run)
	n.past.Log, n.past.Catalog = n.log, n.catalog
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

// startEngine starts ClickHouse, or names the one there is. The gateway does
// not wait for it: what cars send meanwhile is in the log.
func (n *Node) startEngine(context.Context) error {
	if !n.cfg.Has("project") {
		return nil
	}
	if n.cfg.ClickHouse != "" {
		u, err := url.Parse(n.cfg.ClickHouse)
		if err != nil {
			return fmt.Errorf("--clickhouse: %w", err)
		}
		password, _ := u.User.Password()
		n.server = columnar.Server{URL: u.Scheme + "://" + u.Host, User: u.User.Username(), Password: password, Database: n.cfg.Database}
		n.addrs.ClickHouseHTTP = u.Host
		return nil
	}
	cache, err := engine.CacheDir()
	if err != nil {
		return err
	}
	// What no waiting mends is told at once: the wrong machine, a wrong library.
	if _, err := engine.Find(cache); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	writer, err := secret(n.cfg.file("clickhouse.writer.password"))
	if err != nil {
		return err
	}
	analyst, err := secret(n.cfg.file("clickhouse.analyst.password"))
	if err != nil {
		return err
	}
	cfg := engine.Config{
		Dir: n.cfg.file("clickhouse"), Host: n.cfg.ClickHouseHost, Database: n.cfg.Database, Memory: n.cfg.ClickHouseMemory,
		WriterPassword: writer, AnalystPassword: analyst, DiskReserve: n.cfg.LogReserve / 4, Logger: n.logger,
	}
	if cfg.NativePort, err = n.freePort(n.cfg.ClickHouseHost, n.cfg.ClickHouseNativePort, "clickhouse-native-port"); err != nil {
		return err
	}
	if cfg.HTTPPort, err = n.freePort(n.cfg.ClickHouseHost, n.cfg.ClickHouseHTTPPort, "clickhouse-http-port"); err != nil {
		return err
	}
	n.addrs.ClickHouseNative = net.JoinHostPort(n.cfg.ClickHouseHost, fmt.Sprint(cfg.NativePort))
	n.addrs.ClickHouseHTTP = net.JoinHostPort(n.cfg.ClickHouseHost, fmt.Sprint(cfg.HTTPPort))
	n.addrs.ClickHousePasswordFile = n.cfg.file("clickhouse.analyst.password")
	n.addrs.ClickHouseUser = engine.AnalystUser
	n.server = columnar.Server{URL: "http://" + n.addrs.ClickHouseHTTP, User: engine.WriterUser, Password: writer, Database: n.cfg.Database}
	n.engineReady = make(chan struct{})
	n.setWaiting("ClickHouse", "starting")
	n.run("ClickHouse", func(ctx context.Context) error { return n.runEngine(ctx, cache, cfg) })
	return nil
}

// runEngine keeps the embedded ClickHouse alive until ctx ends, then stops it.
// A registry that cannot be reached, or a start that fails, is tried again.
func (n *Node) runEngine(ctx context.Context, cache string, cfg engine.Config) error {
	e, err := n.bringUpEngine(ctx, cache, cfg)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.engine = e
	n.mu.Unlock()
	n.setWaiting("ClickHouse", "")
	close(n.engineReady)
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return e.Stop(stopping)
}

func (n *Node) bringUpEngine(ctx context.Context, cache string, cfg engine.Config) (*engine.Engine, error) {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		var e *engine.Engine
		var err error
		if cfg.Library, err = engine.Fetch(ctx, cache, os.Stderr); err == nil {
			e, err = engine.Start(ctx, cfg)
		}
		if err == nil || ctx.Err() != nil {
			return e, err
		}
		n.logger.Error("ClickHouse is not there; the log keeps what is to come", "error", err, "again_in", pause)
		n.setWaiting("ClickHouse", err.Error())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
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

func (n *Node) startProjections(context.Context) error {
	if !n.cfg.Has("project") {
		return nil
	}
	changes, err := shadowTable()
	if err != nil {
		return err
	}
	steps, err := commandTable()
	if err != nil {
		return err
	}
	connections, err := presenceTable()
	if err != nil {
		return err
	}
	base := columnar.Config{
		Log: n.appends, Catalog: n.catalog, Server: n.server, MaxAge: n.cfg.BatchAge, Logger: n.logger,
		Keep:  columnar.Keep{Samples: n.cfg.KeepSamples, Events: n.cfg.KeepEvents, Minutes: n.cfg.Keep1m, Hours: n.cfg.Keep1h},
		Facts: []columnar.FactTable{changes, steps, connections}, Views: append(views(), columnar.AnalystViews(n.catalog.Schemas().All())...),
	}
	var written []uint16
	var writers []*projections.Restartable
	for _, p := range n.log.Partitions() {
		if p == events.DeadLetterPartition {
			continue // what is there came from the writer itself
		}
		cfg := base
		cfg.Partition = p
		if p != events.ControlPartition {
			cfg.Views = nil
		}
		w, err := projections.NewRestartable(func() (projections.Runner, error) { return columnar.New(cfg) })
		if err != nil {
			return err
		}
		written, writers = append(written, p), append(writers, w)
		n.startRunner(w, n.afterSwap(w.Run))
		if p == events.ControlPartition {
			continue
		}
		l, err := latest.New(latest.Config{Log: n.appends, Catalog: n.catalog, KV: n.views, Partition: p, Snapshots: n.past.Snapshots, Logger: n.logger})
		if err != nil {
			return err
		}
		n.startRunner(l, l.Run)
	}
	n.makeReplays(base, written, writers)
	n.metrics.MustRegister(lagCollector{n.runners})
	return nil
}

func (n *Node) startRunner(r projections.Runner, run func(context.Context) error) {
	n.runners = append(n.runners, r)
	n.run(fmt.Sprintf("%s of partition %d", r.Name(), r.Status().Partition), run)
}

// afterEngine spares a writer the vain attempts while ClickHouse starts.
func (n *Node) afterEngine(run func(context.Context) error) func(context.Context) error {
	if n.engineReady == nil {
		return run
	}
	return func(ctx context.Context) error {
		select {
		case <-n.engineReady:
			return run(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *Node) listen(flag string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", n.cfg.address(n.cfg.Host, port))
	if err != nil {
		return nil, portTaken(flag, err)
	}
	if n.cfg.TLSCert == "" {
		return l, nil
	}
	cert, err := tls.LoadX509KeyPair(n.cfg.TLSCert, n.cfg.TLSKey)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), nil
}

func (n *Node) startAPI(context.Context) error {
	admin, err := auth.AdminToken(n.cfg.Data)
	if err != nil {
		return err
	}
	n.addrs.AdminTokenFile = n.cfg.file("admin.token")
	l, err := n.listen("http-port", n.cfg.HTTPPort)
	if err != nil {
		return err
	}
	var telemetry http.Handler // nil: the API says that there is no gateway here
	if n.gateway != nil {
		telemetry = n.gateway.TelemetryHandler()
	}
	handler := api.New(api.Config{
		Log: n.appends, Catalog: n.catalog, Auth: n.auth, Admin: admin, KV: n.views, Past: n.past, Replays: n.replays, Shadows: n.shadows, Commands: n.commands, Roster: n.roster, Telemetry: telemetry,
		Ready: n.Ready, Metrics: n.metrics, Runners: n.runners, Logger: n.logger,
	})
	if !n.cfg.Has("api") && !n.cfg.Has("gateway") {
		handler = health(handler)
	}
	server := api.Server(handler, n.logger)
	n.addrs.HTTP = l.Addr().String()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.logger.Error("HTTP stopped", "error", err)
			n.setWaiting("HTTP", err.Error())
		}
	}()
	n.onStop("HTTP", func(ctx context.Context) error {
		// Answers that stream would use up the time that the others need.
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		<-ended
		return err
	})
	return nil
}

// health is what a process shows of itself that serves nobody.
func health(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"GET /healthz", "GET /readyz", "GET /metrics"} {
		mux.Handle(path, h)
	}
	return mux
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
