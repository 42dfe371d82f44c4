// Package api is Tachograph's HTTP interface: devices, their state and history,
// schemas, and whether the process is well.
//
// It promises one error body for every refusal (package problem), an answer
// described in openapi.yaml for every call, and that no request holds more of
// the process than the bounds in server.go. It refuses what is probably a
// mistake: unknown fields and parameters, fields that stand twice.
//
// It writes nothing itself: devices are added by auth, schemas by catalog,
// telemetry by the gateway's handler, which is mounted here.
package api

import (
	_ "embed"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/letters"
	asking "github.com/tachograph/tachograph/services/query"
	"github.com/tachograph/tachograph/services/replays"
	"github.com/tachograph/tachograph/services/retention"
	"github.com/tachograph/tachograph/services/roster"
	"github.com/tachograph/tachograph/services/shadows"
)

// A Config says what the API stands on. All fields but History, Analyst,
// Query, Telemetry, Metrics and Runners are required.
type Config struct {
	Log       events.Log
	History   events.Log // the log and what was purged from it; nil: the log alone
	Catalog   *catalog.Catalog
	Auth      *auth.Directory
	Admin     *auth.Key
	Analyst   *auth.Key                   // may ask, and nothing else; nil: nobody
	KV        jetstream.KeyValue          // bucket of the projection latest
	Past      *latest.Past                // and its states of earlier
	Replays   map[string]*replays.Replays // by projection; empty where the process runs no projections
	Letters   *letters.Letters            // nil there, too
	Janitor   *retention.Janitor
	Audit     *columnar.Audit // nil there as well; a template
	Forgetter *retention.Forgetter
	Shadows   *shadows.Shadows
	Commands  *commands.Commands
	Roster    *roster.Roster
	Query     *asking.Client                 // nil where the process knows no ClickHouse to ask
	Telemetry http.Handler                   // the gateway's, authenticates by itself; nil where the process runs none
	Ready     func() (ok bool, why []string) // of the whole process
	Metrics   prometheus.Gatherer            // of the whole process; served with the API's own
	Runners   []projections.Runner           // that this process runs
	Logger    *slog.Logger
}

type api struct {
	log       events.Log
	history   events.Log
	catalog   *catalog.Catalog
	devices   *auth.Directory
	keys      *auth.Key
	analyst   *auth.Key
	latest    jetstream.KeyValue
	past      *latest.Past
	replays   map[string]*replays.Replays
	janitor   *retention.Janitor
	forgetter *retention.Forgetter
	letters   *letters.Letters
	audit     *columnar.Audit
	audits    chan struct{} // one at a time
	shadows   *shadows.Shadows
	commands  *commands.Commands
	roster    *roster.Roster
	asks      *asking.Client
	ready     func() (bool, []string)
	runners   []projections.Runner
	logger    *slog.Logger

	mux       *http.ServeMux
	metrics   *metrics
	readers   chan struct{} // one for each reader of events at work
	followers chan struct{} // for each who follows them
	watchers  chan struct{} // and for each who waits for a command
	beat      time.Duration // of a stream of events without news
	stopping  chan struct{}
	stop      sync.Once
}

//go:embed openapi.yaml
var description []byte

// New returns the handler of the whole interface. Serve it with Server's bounds.
func New(c Config) http.Handler {
	a := &api{
		log: c.Log, history: c.History, catalog: c.Catalog, devices: c.Auth, keys: c.Admin, analyst: c.Analyst, latest: c.KV, past: c.Past, replays: c.Replays, letters: c.Letters, janitor: c.Janitor, forgetter: c.Forgetter, audit: c.Audit, audits: make(chan struct{}, 1), shadows: c.Shadows, commands: c.Commands, roster: c.Roster, asks: c.Query,
		ready: c.Ready, runners: c.Runners, logger: c.Logger,
		mux: http.NewServeMux(), metrics: newMetrics(),
		readers: make(chan struct{}, eventReaders), followers: make(chan struct{}, eventFollowers), beat: beat, stopping: make(chan struct{}), watchers: make(chan struct{}, commandWatchers),
	}
	if a.history == nil {
		a.history = a.log
	}
	if c.Telemetry == nil {
		c.Telemetry = a.handle(noGateway)
	}
	for _, r := range a.routes(c) {
		a.mux.Handle(r.pattern, r.handler)
	}
	return a
}

type route struct {
	pattern string
	handler http.Handler
}

// routes is the interface; openapi.yaml describes the same, held by a test.
func (a *api) routes(c Config) []route {
	return []route{
		{"POST /v1/devices", a.handle(a.admin(a.addDevice))},
		{"GET /v1/devices", a.handle(a.admin(a.listDevices))},
		{"GET /v1/devices/{id}", a.handle(a.admin(a.getDevice))},
		{"DELETE /v1/devices/{id}", a.handle(a.admin(a.removeDevice))},
		{"POST /v1/devices/{id}/token", a.handle(a.admin(a.rotateToken))},
		{"GET /v1/devices/{id}/state", a.handle(a.own(a.getState))},
		{"POST /v1/devices/{id}/telemetry/{message}", c.Telemetry},
		{"GET /v1/devices/{id}/shadow", a.handle(a.own(a.getShadow))},
		{"POST /v1/devices/{id}/shadow", a.handle(a.own(a.updateShadow))},
		{"DELETE /v1/devices/{id}/shadow", a.handle(a.own(a.deleteShadow))},
		{"GET /v1/devices/{id}/shadow/history", a.handle(a.own(a.listShadowHistory))},
		{"GET /v1/devices/{id}/shadows", a.handle(a.own(a.listShadows))},
		{"GET /v1/shadows/pending", a.handle(a.admin(a.listPending))},
		{"GET /things/{id}/shadow", a.handle(a.aws(a.own(a.awsGet)))},
		{"POST /things/{id}/shadow", a.handle(a.aws(a.own(a.awsUpdate)))},
		{"DELETE /things/{id}/shadow", a.handle(a.aws(a.own(a.awsDelete)))},
		{"GET /api/things/shadow/ListNamedShadowsForThing/{id}", a.handle(a.aws(a.own(a.awsNames)))},
		{"POST /v1/devices/{id}/commands", a.handle(a.admin(a.addCommand))},
		{"GET /v1/devices/{id}/commands", a.handle(a.admin(a.listCommands))},
		{"GET /v1/devices/{id}/commands/{command}", a.handle(a.admin(a.getCommand))},
		{"DELETE /v1/devices/{id}/commands/{command}", a.handle(a.admin(a.cancelCommand))},
		{"GET /v1/devices/{id}/commands/{command}/events", a.handle(a.admin(a.watchCommand))},
		{"POST /v1/commands", a.handle(a.admin(a.addCommands))},
		{"POST /v1/schemas", a.handle(a.admin(a.addSchema))},
		{"GET /v1/schemas", a.handle(a.admin(a.listSchemas))},
		{"GET /v1/schemas/{name}", a.handle(a.admin(a.getSchema))},
		{"GET /v1/events", a.handle(a.admin(a.listEvents))},
		{"GET /v1/query", a.handle(a.asker(a.askByURL))},
		{"GET /v1/query/{id}", a.handle(a.asker(a.getOutcome))},
		{"POST /v1/query", a.handle(a.asker(a.askByBody))},
		{"POST /v1/replays/{projection}", a.handle(a.admin(a.startReplay))},
		{"GET /v1/replays/{projection}", a.handle(a.admin(a.getReplay))},
		{"DELETE /v1/replays/{projection}", a.handle(a.admin(a.cancelReplay))},
		{"POST /v1/replays/{projection}/undo", a.handle(a.admin(a.undoReplay))},
		{"POST /v1/replays/{projection}/discard", a.handle(a.admin(a.discardReplay))},
		{"POST /v1/forget", a.handle(a.admin(a.forget))},
		{"GET /v1/forget", a.handle(a.admin(a.listForgotten))},
		{"GET /v1/forget/{request}", a.handle(a.admin(a.getForgotten))},
		{"GET /v1/log", a.handle(a.admin(a.getLog))},
		{"GET /v1/dead-letters", a.handle(a.admin(a.listLetters))},
		{"GET /v1/dead-letters/{letter}", a.handle(a.admin(a.getLetter))},
		{"POST /v1/dead-letters/replay", a.handle(a.admin(a.replayLetters))},
		{"POST /v1/dead-letters/drop", a.handle(a.admin(a.dropLetters))},
		{"POST /v1/verify", a.handle(a.admin(a.verify))},
		{"GET /v1/projections", a.handle(a.admin(a.listProjections))},
		{"GET /healthz", a.handle(a.health)},
		{"GET /readyz", a.handle(a.readiness)},
		{"GET /metrics", a.metrics.handler(c.Metrics)},
		{"GET /openapi.yaml", a.handle(a.describe)},
	}
}
