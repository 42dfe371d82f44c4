package gateway

import (
	"hash/maphash"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/dialect"
)

// A Config says what a gateway stands on. Log, Catalog and Auth are required.
type Config struct {
	Log     events.Log
	Catalog *catalog.Catalog
	Auth    *auth.Directory
	Limits  Limits
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// A Gateway takes in what devices say. All methods may be called from several
// goroutines.
type Gateway struct {
	log     events.Log
	catalog *catalog.Catalog
	auth    *auth.Directory
	limits  Limits
	logger  *slog.Logger
	dialect *dialect.Dialect
	metrics *metrics

	services map[dialect.Kind]Service
	watcher  Watcher // nil: nobody

	checkers checkers
	senders  senders
	sessions sessions
	pendings sync.Pool // of *pending
	seed     maphash.Seed
}

// New returns a gateway. It serves nothing by itself: see ServeMQTT,
// TelemetryHandler and ServeNATS.
func New(c Config) *Gateway {
	c.Limits.complete()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{
		log: c.Log, catalog: c.Catalog, auth: c.Auth, limits: c.Limits, logger: c.Logger,
		dialect: dialect.Native(), metrics: newMetrics(c.Metrics), services: map[dialect.Kind]Service{},
		senders: senders{m: map[string]*Sender{}}, seed: maphash.MakeSeed(),
	}
	g.pendings.New = newPending
	g.sessions.init(g)
	g.auth.OnRevoke(g.revoke)
	return g
}

// Serve gives a kind of topics its service; a kind without one has no topics.
// It is called before the first listener is opened.
func (g *Gateway) Serve(kind dialect.Kind, s Service) { g.services[kind] = s }

// Sender returns a device that has proved who it is.
func (g *Gateway) Sender(device string) *Sender { return g.senders.get(device) }

// revoke ends what a device has here. It doesn't block.
func (g *Gateway) revoke(device string) {
	g.senders.forget(device)
	g.sessions.revoke(device)
}
