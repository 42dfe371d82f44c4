package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// A Rebuilds campaign makes a history, takes a picture of all that the live
// projections have made of it, and has it made anew in every way that there is:
// replayed; replayed and killed with -9 in the middle; folded after the views were
// deleted; replayed of a log that was purged; exported and imported into an empty
// log. Each time the picture must be the same, whole.
type Rebuilds struct {
	Tacho, Dir string
	Seed       uint64
	Fixes      []fleet.Fix   // the history: recorded drives, as fast as they are answered
	Random     time.Duration // or, without any, a random one that is made for so long
	Kills      int           // of each replay that is killed
	Short      bool          // only the ways that have the others in them, and one kill, for tests
	Say        func(format string, args ...any)
}

// A RebuildReport is what a campaign has compared.
type RebuildReport struct {
	Events, Places int // of the log; of the picture: rows, buckets, documents, answers
	Ways           []string
	Kills          int
	Aimed          map[string]int // kills by what the replay was at
	Differ         int            // places that were not the same, in all ways
	Differences    []string       // the first ones
}

// Good tells whether nothing differs.
func (r RebuildReport) Good() bool { return r.Differ == 0 && len(r.Ways) > 0 }

func (r *RebuildReport) differ(format string, args ...any) {
	if len(r.Differences) < 20 {
		r.Differences = append(r.Differences, fmt.Sprintf(format, args...))
	}
}

func (r RebuildReport) String() string {
	text := fmt.Sprintf("%d events, %d places compared in each of %d ways (%s), %d kills in replays %v: %d differ", r.Events, r.Places, len(r.Ways), strings.Join(r.Ways, ", "), r.Kills, r.Aimed, r.Differ)
	return strings.Join(append([]string{text}, r.Differences...), "\n  ")
}

// A rebuilding is a campaign under way.
type rebuilding struct {
	*Rebuilds
	site   *site
	r      *rand.Rand
	report RebuildReport
	looks  []look
	want   picture
}

// A way is one in which a history is folded anew.
type way struct {
	name string
	do   func(context.Context) error
}

// replayed are the projections that can be replayed.
var replayed = []string{"columnar", "latest", "shadow"}

// Run returns what it found; an error is what kept it from judging.
func (c *Rebuilds) Run(ctx context.Context) (report RebuildReport, err error) {
	b := &rebuilding{Rebuilds: c, r: rand.New(rand.NewPCG(c.Seed, 40)), report: RebuildReport{Aimed: map[string]int{}}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("rebuilds: seed %d: %w", c.Seed, err)
		}
	}()
	if b.site, err = newSite(c.Tacho, filepath.Join(c.Dir, "site"), 1+int(c.Seed%2)); err != nil {
		return report, err
	}
	defer b.site.abandon()
	if err := b.live(ctx); err != nil {
		return b.report, err
	}
	ways := []way{
		{"replayed", b.replay},
		{"killed in a replay", b.killed},
		{"folded without its views from a purged log", b.purged},
		{"replayed from a purged log", b.replay},
		{"killed in a replay from a purged log", b.killed},
	}
	if c.Short {
		ways = []way{{"killed in a replay without its views from a purged log", func(ctx context.Context) error { return errors.Join(b.purged(ctx), b.killed(ctx)) }}}
	}
	for _, way := range ways {
		began := time.Now()
		if err := way.do(ctx); err != nil {
			return b.report, fmt.Errorf("%s: %w", way.name, err)
		}
		if err := b.compare(ctx, b.site, way.name, began, func(p picture) picture { return p }); err != nil {
			return b.report, fmt.Errorf("%s: %w", way.name, err)
		}
	}
	if err := b.archived(ctx); err != nil {
		return b.report, fmt.Errorf("from the archive: %w", err)
	}
	return b.report, nil
}

// live makes the history, and the picture that all others are held to.
func (b *rebuilding) live(ctx context.Context) error {
	starting, cancel := context.WithTimeout(ctx, 10*time.Minute) // the first start fetches ClickHouse
	defer cancel()
	if err := b.site.node.start(starting); err != nil {
		return err
	}
	began := time.Now()
	err := error(nil)
	if len(b.Fixes) > 0 {
		err = b.site.playDrives(ctx, b.Fixes)
	} else {
		err = b.site.playRandom(ctx, b.Seed, b.Random)
	}
	if err != nil {
		return fmt.Errorf("make history: %w", err)
	}
	if err := b.site.quiet(ctx, catching); err != nil {
		return err
	}
	if err := b.site.sql(ctx, "SELECT count() FROM tacho.events FORMAT TSV", func(line []byte) error {
		_, err := fmt.Sscan(string(line), &b.report.Events)
		return err
	}); err != nil {
		return err
	}
	if b.looks, err = b.site.looks(ctx, b.r, 20); err != nil {
		return err
	}
	if b.want, err = b.site.picture(ctx, b.looks); err != nil {
		return err
	}
	b.report.Places = b.want.size()
	b.Say("seed %d: %d events in %s, %d places", b.Seed, b.report.Events, time.Since(began).Round(time.Millisecond), b.report.Places)
	return nil
}

// looks chooses devices and moments: between two arrivals, or when its newest was.
func (s *site) looks(ctx context.Context, r *rand.Rand, n int) (all []look, err error) {
	err = s.sql(ctx, fmt.Sprintf("SELECT device, toString(received + INTERVAL 1 SECOND) FROM tacho.events WHERE kind = 'telemetry' ORDER BY cityHash64(_seq, %d) LIMIT %d FORMAT JSONCompactEachRow", r.Uint32(), n), func(line []byte) error {
		var row [2]string
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		all = append(all, look{row[0], strings.Replace(row[1], " ", "T", 1) + "Z"})
		return nil
	})
	return all, err
}

// compare takes a picture and holds it to the first one.
func (b *rebuilding) compare(ctx context.Context, s *site, way string, began time.Time, as func(picture) picture) error {
	if err := s.quiet(ctx, catching); err != nil {
		return err
	}
	got, err := s.picture(ctx, b.looks)
	if err != nil {
		return err
	}
	b.report.Ways = append(b.report.Ways, way)
	n, first := as(b.want).differences(as(got))
	b.report.Differ += n
	for _, d := range first {
		b.report.differ("%s: %s", way, d)
	}
	b.Say("seed %d: %s: %d of %d places differ (%s)", b.Seed, way, n, got.size(), time.Since(began).Round(time.Millisecond))
	return nil
}

// A replayState is what the API says of a replay.
type replayState struct {
	State, Error string
	Progress     struct {
		Phase       string
		Done, Total uint64
	}
	Tables []struct {
		Table             string
		Old, New, Changed uint64
		OnlyOld           uint64 `json:"only_old"`
		OnlyNew           uint64 `json:"only_new"`
		Examples          []string
	}
}

func (s *site) replayState(ctx context.Context, name string) (st replayState, err error) {
	text, err := s.ask(ctx, http.MethodGet, "/v1/replays/"+name, nil)
	if err == nil {
		err = json.Unmarshal([]byte(text), &st)
	}
	return st, err
}

// startReplay starts one, as soon as ClickHouse is there; rate 0 is no limit.
func (s *site) startReplay(ctx context.Context, name string, rate int) error {
	path := "/v1/replays/" + name
	if rate > 0 {
		path += fmt.Sprintf("?rate=%d", rate)
	}
	for end := time.Now().Add(healing); ; {
		_, err := s.ask(ctx, http.MethodPost, path, nil)
		if err == nil || !strings.Contains(err.Error(), "503 ") || time.Now().After(end) {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// replay replays every projection. It must find nothing that differs.
func (b *rebuilding) replay(ctx context.Context) error {
	for _, name := range replayed {
		if err := b.finish(ctx, name, false); err != nil {
			return err
		}
	}
	return nil
}

// finish runs a replay to its end. After a kill it may fail once more, and says so:
// ClickHouse is not back as soon as the node is.
func (b *rebuilding) finish(ctx context.Context, name string, killed bool) error {
	if err := b.site.startReplay(ctx, name, 0); err != nil {
		return err
	}
	for end := time.Now().Add(catching); ; {
		st, err := b.site.replayState(ctx, name)
		if err != nil {
			return err
		}
		if st.State == "done" {
			for _, t := range st.Tables {
				if t.Old != t.New || t.OnlyOld+t.OnlyNew+t.Changed > 0 {
					b.report.Differ++
					b.report.differ("replay %s says by itself: %+v", name, t)
				}
			}
			return nil
		}
		if st.State == "failed" && killed {
			killed = false
			if err := b.site.startReplay(ctx, name, 0); err != nil {
				return err
			}
			continue
		}
		if st.State != "running" || time.Now().After(end) {
			return fmt.Errorf("replay %s: %+v", name, st)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// How long a replay is let live between two kills, while it builds. A writer that is
// behind keeps a batch for up to three seconds, so some lives bring it further and
// some don't.
const longestLife = 8 * time.Second

// killed replays every projection; the replay is killed again and again, each time
// with all of the node, with NATS too, or by its ClickHouse alone, as the seed says.
func (b *rebuilding) killed(ctx context.Context) error {
	for _, name := range replayed {
		rate := max(1, b.report.Events*2*4/3/b.Kills/int(longestLife/time.Second)) // so it is hardly over before the last ones
		for kill := range b.Kills {
			if b.Short && name != replayed[0] {
				break
			}
			own := rand.New(rand.NewPCG(b.r.Uint64(), 41))
			if err := b.kill(ctx, name, own, rate, kill, kill >= b.Kills*3/4); err != nil {
				return fmt.Errorf("kill %d: %w", kill, err)
			}
		}
		if err := b.finish(ctx, name, true); err != nil {
			return err
		}
	}
	return nil
}

// kill starts a replay, or lets it go on, and kills it: one of the last ones, at full speed,
// when it compares and swaps, the others while it builds.
func (b *rebuilding) kill(ctx context.Context, name string, r *rand.Rand, rate, number int, last bool) error {
	life, dice := ms(r, 1, int(longestLife/time.Millisecond)), r.IntN(4)
	if b.Kills == 1 { // the only one: anywhere
		last, life, rate = r.IntN(2) == 0, life/6, max(1, b.report.Events)
	}
	if last {
		life, rate = ms(r, 1, 60), 0
	}
	if err := b.site.startReplay(ctx, name, rate); err != nil {
		return err
	}
	st, err := b.site.replayState(ctx, name)
	if last {
		for ; err == nil && st.State == "running" && st.Progress.Phase != "comparing" && st.Progress.Phase != "swapping"; st, err = b.site.replayState(ctx, name) {
			if err := pause(ctx, 2*time.Millisecond); err != nil {
				return err
			}
		}
	}
	if err == nil {
		err = pause(ctx, life)
	}
	if err == nil {
		st, err = b.site.replayState(ctx, name)
	}
	if err != nil {
		return err
	}
	at := st.Progress.Phase
	if st.State != "running" {
		at = st.State
	}
	b.report.Kills++
	b.report.Aimed[at]++
	what := "the node and its ClickHouse"
	switch process, _ := b.site.node.running(); dice {
	case 0:
		what = "ClickHouse"
		if !process.KillEngine() {
			return errors.New("there is no ClickHouse to kill")
		}
	case 1:
		what = "the node, its ClickHouse and NATS"
		b.site.node.kill()
		b.site.nats.kill()
		if err := errors.Join(b.site.nats.start(), b.site.node.start(ctx)); err != nil {
			return err
		}
	default:
		b.site.node.kill()
		if err := b.site.node.start(ctx); err != nil {
			return err
		}
	}
	b.Say("seed %d: %s, kill %d: %s, %s at %d of %d", b.Seed, name, number, what, at, st.Progress.Done, st.Progress.Total)
	return b.settled(ctx, name)
}

// settled waits until a replay runs no more and the node is ready: one that has lost its ClickHouse fails, or waits for it
// and goes on.
func (b *rebuilding) settled(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healing, fmt.Errorf("%s are over", healing))
	defer cancel()
	for {
		process, _ := b.site.node.running()
		err := process.Await(ctx)
		if err == nil {
			var st replayState
			if st, err = b.site.replayState(ctx, name); err == nil && st.State != "running" {
				return nil
			}
			if err == nil { // it goes on by itself: end it, as Ctrl-C does
				_, err = b.site.ask(ctx, http.MethodDelete, "/v1/replays/"+name, nil)
			}
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// purged takes the beginning of the telemetry out of the log, up to a random position,
// and all views with it: a start folds them anew, and finds in ClickHouse what the
// log lacks.
func (b *rebuilding) purged(ctx context.Context) error {
	b.site.node.kill()
	err := b.site.jetStream(func(js jetstream.JetStream) error {
		for p := range b.site.partitions {
			s, err := js.Stream(ctx, fmt.Sprintf("TELEMETRY_%d", p))
			if err != nil {
				return err
			}
			info, err := s.Info(ctx)
			if err != nil {
				return err
			}
			upTo := info.State.LastSeq/3 + 1 + b.r.Uint64N(info.State.LastSeq/2+1)
			if err := s.Purge(ctx, jetstream.WithPurgeSequence(upTo)); err != nil {
				return err
			}
			b.Say("seed %d: partition %d purged in front of %d of %d", b.Seed, p, upTo, info.State.LastSeq)
		}
		return errors.Join(js.DeleteKeyValue(ctx, "latest"), js.DeleteKeyValue(ctx, "shadow"), js.DeleteStream(ctx, "SNAPSHOTS"))
	})
	return errors.Join(err, b.site.node.start(ctx))
}

// archived exports what there is, and imports it into an empty log, where it is
// folded; the import is killed once, but in the short form.
func (b *rebuilding) archived(ctx context.Context) error {
	began := time.Now()
	archive := filepath.Join(b.Dir, "archive")
	if err := b.site.run(ctx, "export", archive, "--rows", "5000", "--data", b.site.node.dir); err != nil {
		return err
	}
	b.site.abandon()
	s, err := newSite(b.Tacho, filepath.Join(b.Dir, "again"), b.site.partitions)
	if err != nil {
		return err
	}
	defer s.abandon()
	args := append([]string{"import", archive, "--data", s.node.dir}, s.place()...)
	if !b.Short {
		killed := exec.Command(b.Tacho, args...)
		if err := killed.Start(); err != nil {
			return err
		}
		err := pause(ctx, ms(b.r, 1, 600))
		_ = killed.Process.Kill()
		_ = killed.Wait() // it may have been faster
		if err != nil {
			return err
		}
	}
	if err := s.run(ctx, args...); err != nil && !strings.Contains(err.Error(), "not empty") {
		return err
	}
	if err := s.node.start(ctx); err != nil {
		return err
	}
	return b.compare(ctx, s, "from the archive", began, picture.asArchived)
}
