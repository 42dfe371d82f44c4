package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
	"github.com/tachograph/tachograph/projections/history"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/letters"
	"github.com/tachograph/tachograph/services/replays"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

// withReplays gives the API replays on a real ClickHouse. Each swap waits until
// it can read from hold.
func withReplays(hold <-chan struct{}) func(*fixture, *Config) {
	return func(f *fixture, c *Config) {
		e := enginetest.Start(f.t)
		user, password := e.Writer()
		server := columnar.Server{URL: "http://" + e.HTTPAddr(), User: user, Password: password}
		if err := columnar.Migrate(context.Background(), server); err != nil {
			f.t.Fatal(err)
		}
		f.server = server
		tables, err := columnar.NewLetters(server)
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { tables.Close() })
		c.Letters = letters.New(f.log, f.catalog, tables)
		writer := columnar.Config{Log: f.log, Catalog: f.catalog, Server: server, MaxAge: 20 * time.Millisecond}
		c.Audit = &columnar.Audit{Writer: writer, Log: f.log}
		held := func(ctx context.Context) (func(), error) {
			select {
			case <-hold:
				return func() {}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		logger := slog.New(slog.DiscardHandler)
		c.Replays = map[string]*replays.Replays{
			"columnar": replays.New("columnar", &columnar.Replay{Writer: writer, Partitions: []uint16{0, events.ControlPartition}, Pause: held}, logger),
		}
	}
}

// replayContract is TestContract's part about replays.
func replayContract(f *fixture, hold chan<- struct{}, refused func(call, problem.Code)) {
	f.t.Helper()
	admin := func(method, path string) call {
		return call{method: method, path: "/v1/replays/" + path, token: "admin"}
	}
	for _, c := range []call{admin("POST", "moon"), admin("GET", "moon"), admin("DELETE", "moon"), admin("POST", "moon/undo"), admin("POST", "moon/discard")} {
		refused(c, problem.ProjectionNotFound)
	}
	refused(admin("POST", "columnar?rate=0"), problem.InvalidRequest)
	refused(admin("POST", "columnar/undo"), problem.NothingToUndo)
	f.answered(admin("POST", "columnar"), 202, nil)
	refused(admin("POST", "columnar"), problem.ReplayRunning)
	refused(admin("POST", "columnar/undo"), problem.ReplayRunning)
	refused(admin("POST", "columnar/discard"), problem.ReplayRunning)
	f.answered(admin("DELETE", "columnar"), 200, nil)
	await := func(state replays.State) {
		f.t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			var status replays.Status
			f.answered(admin("GET", "columnar"), 200, &status)
			if status.State == state {
				return
			}
			if status.State != replays.Running || time.Now().After(deadline) {
				f.t.Fatalf("%+v, want %s", status, state)
			}
		}
	}
	await(replays.Cancelled)
	f.answered(admin("POST", "columnar?dry_run=true&rate=100000"), 202, nil)
	await(replays.Done)
	conn, err := f.server.Open()
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	exec := func(sql string) {
		f.t.Helper()
		if err := conn.Exec(f.t.Context(), sql); err != nil {
			f.t.Fatal(err)
		}
	}
	exec("CREATE TABLE tacho._swap (other String, table String, id String) ENGINE = MergeTree ORDER BY table") // of one that died
	exec("INSERT INTO tacho._swap VALUES ('tacho_replay', 'events', 'x')")
	refused(admin("POST", "columnar/discard"), problem.SwapUnfinished)
	exec("DROP TABLE tacho._swap SYNC")
	f.answered(admin("POST", "columnar/discard"), 200, nil)
	refused(admin("POST", "columnar/discard"), problem.NothingToDiscard)
	f.answered(admin("POST", "columnar"), 202, nil)
	hold <- struct{}{}
	await(replays.Done)
	go func() { hold <- struct{}{} }()
	if got := f.answered(admin("POST", "columnar/undo"), 200, nil); !strings.Contains(string(got.body), `"state"`) {
		f.t.Errorf("%s", got.body)
	}
}

// TestReplayElsewhere: a process without projections says so.
func TestReplayElsewhere(t *testing.T) {
	f := newFixture(t)
	f.refused(call{method: "POST", path: "/v1/replays/columnar", token: "admin"}, problem.Unavailable)
}

// lame is a projection that cannot be replayed now.
type lame struct{ err error }

func (l lame) Check(context.Context) error { return l.err }

func (l lame) Build(context.Context, projections.Order, func(projections.Progress)) ([]projections.TableReport, error) {
	return nil, l.err
}

func (l lame) Undo(context.Context) error { return l.err }

func (l lame) Discard(context.Context) error { return l.err }

// TestReplayWithout: a ClickHouse that cannot be asked is no defect of ours, and
// history that is gone is told as such.
func TestReplayWithout(t *testing.T) {
	for _, c := range []struct {
		err  error
		code problem.Code
	}{
		{errors.New("dial tcp 127.0.0.1:9000: connect: connection refused"), problem.Unavailable},
		{fmt.Errorf("locate: %w", &history.MissingError{First: events.Position{Epoch: 1, Seq: 7}, Last: 7, Count: 1, Where: "the archive"}), problem.HistoryTruncated},
	} {
		f := newFixture(t, func(_ *fixture, cfg *Config) {
			cfg.Replays = map[string]*replays.Replays{"columnar": replays.New("columnar", lame{c.err}, slog.New(slog.DiscardHandler))}
		})
		f.refused(call{method: "POST", path: "/v1/replays/columnar", token: "admin"}, c.code)
		f.refused(call{method: "POST", path: "/v1/replays/columnar/undo", token: "admin"}, c.code)
		f.refused(call{method: "POST", path: "/v1/replays/columnar/discard", token: "admin"}, c.code)
	}
}
