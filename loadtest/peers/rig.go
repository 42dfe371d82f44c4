package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A Rig is a log in a nats-server, filled once by a gateway, and a node that
// projects it into a ClickHouse of its own: each a process, so that their CPU
// can be told apart. This process is the client of the ways that are compared
// with the node.
type Rig struct {
	program, dir string
	form         Form
	messages     int
	telegraf     string // the program; "" for none
	nats         *NATS
	idle         []cost // what starts cost that find nothing to read
	idleTelegraf cost
	node         *Tacho // of the round
	engine       *Engine
}

const (
	rigStream  = "TELEMETRY_0" // as the node calls its partition
	rigDevices = 1000
	blockRows  = 100_000 // where ClickHouse has its best insert rate
	smallest   = 5_000   // messages; fewer tell nothing
)

// A cost is CPU time by process, and the rate if there was one.
type cost struct {
	client, nats, engine time.Duration
	rate                 float64
	lost, doubled        int // rows, at the far end
}

func (c cost) sum() time.Duration { return c.client + c.nats + c.engine }

func (c cost) minus(d cost) cost {
	c.client, c.nats, c.engine = c.client-d.client, c.nats-d.nats, c.engine-d.engine
	return c
}

// newRig measures what a start costs and then fills the log. args are what
// makes this program a nats-server, as with StartNATS.
func newRig(ctx context.Context, w Ways, form Form, args ...string) (_ *Rig, err error) {
	r := &Rig{program: w.Program, dir: filepath.Join(w.Dir, form.String()), form: form, messages: w.Messages, telegraf: w.Telegraf}
	if r.form != JSON {
		r.telegraf = "" // it is measured with what it reads best
	}
	if r.nats, err = StartNATS(ctx, filepath.Join(r.dir, "nats"), args...); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.stop(), r.close())
		}
	}()
	for range min(w.Count, 3) {
		if err := r.runIdle(ctx); err != nil {
			return nil, err
		}
	}
	if r.telegraf != "" {
		if r.idleTelegraf, err = r.runTelegraf(ctx, 0); err != nil {
			return nil, fmt.Errorf("telegraf: %w", err)
		}
	}
	if err := r.stop(); err != nil {
		return nil, err
	}
	if err := r.fill(ctx); err != nil {
		return nil, fmt.Errorf("fill: %w", err)
	}
	// Once, so that the latest states are up to date: they are in NATS and stay there.
	if _, err := r.runNode(ctx); err != nil {
		return nil, err
	}
	if err := r.awaitLatest(ctx); err != nil {
		return nil, err
	}
	return r, r.stop()
}

// awaitLatest waits until the node's other reader of the log has all of it:
// what it left would be read in the rounds.
func (r *Rig) awaitLatest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		folded, _, err := r.node.counter(ctx, `tacho_projection_events_total{partition="0",projection="latest"}`)
		if err == nil && folded >= r.messages {
			var lag int
			if lag, _, err = r.node.counter(ctx, `tacho_projection_lag_events{partition="0",projection="latest"}`); err == nil && lag == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("latest states: %d of %d messages: %w (%v)", folded, r.messages, ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (r *Rig) close() error { return r.nats.Stop() }

func (r *Rig) flags(roles string) []string {
	return []string{"--role", roles, "--nats", r.nats.URL, "--durability", "os", "--roll-up-every", "1h"}
}

// fill has a gateway take the messages into the log.
func (r *Rig) fill(ctx context.Context) (err error) {
	messages := r.messages
	t, err := StartTacho(ctx, r.program, filepath.Join(r.dir, "gateway"), r.flags("gateway,api")...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Stop()) }()
	devices := make([]string, min(rigDevices, messages/100))
	for i := range devices {
		devices[i] = "bench-" + strconv.Itoa(i+1)
	}
	if err := t.Register(ctx, devices); err != nil {
		return err
	}
	f := Flood{Addr: t.Node.MQTT, Devices: devices, Login: t.Login, Topic: t.Topic, Form: r.form, Window: 20, Messages: messages,
		Limit: 10 * time.Minute, Start: time.Now().Add(-time.Hour)}
	res, err := f.Run(ctx)
	if err == nil && res.Acknowledged != messages {
		err = fmt.Errorf("%d of %d messages in %s", res.Acknowledged, messages, res.Elapsed)
	}
	return err
}

// start starts the round's node with an empty ClickHouse. Its tables are the
// projection's checkpoint, so it starts over. Merges wait until the round is
// over: what takes longer would otherwise pay for more of them.
func (r *Rig) start(ctx context.Context) (err error) {
	dir := filepath.Join(r.dir, "node")
	if err := os.RemoveAll(filepath.Join(dir, "clickhouse")); err != nil {
		return err
	}
	if r.node, err = StartTacho(ctx, r.program, dir, r.flags("project,api")...); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.stop())
		}
	}()
	if r.engine, err = r.node.Engine(); err != nil {
		return err
	}
	// A ready node may not have made all its tables yet, and there is no merge to
	// stop of a table that is not there.
	for made := 0; made < 2; {
		if made, err = r.engine.Count(ctx, "SELECT count() FROM system.tables WHERE database = 'tacho' AND name IN ('events', 'position')"); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	for _, table := range []string{"events", "position"} {
		if _, err := r.engine.Exec(ctx, "SYSTEM STOP MERGES "+table, nil); err != nil {
			return err
		}
	}
	return nil
}

// spent is what the processes of a start have used so far.
func (r *Rig) spent(natsBefore time.Duration) (c cost, err error) {
	if c.client, err = CPU(r.node.PID()); err != nil {
		return c, err
	}
	if c.engine, err = CPU(r.engine.PID()); err != nil {
		return c, err
	}
	c.nats, err = CPU(r.nats.PID())
	c.nats -= natsBefore
	return c, err
}

func (r *Rig) stop() error {
	t := r.node
	r.node, r.engine = nil, nil
	if t == nil {
		return nil
	}
	return t.Stop()
}

// runIdle starts a node that finds nothing to read and notes what it has cost
// once it does nothing any more. It leaves it running.
func (r *Rig) runIdle(ctx context.Context) error {
	if err := r.stop(); err != nil {
		return err
	}
	before, err := CPU(r.nats.PID())
	if err != nil {
		return err
	}
	if err := r.start(ctx); err != nil {
		return err
	}
	const look, idle = time.Second, 50 * time.Millisecond
	var last cost
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		c, err := r.spent(before)
		if err != nil {
			return err
		}
		if c.sum()-last.sum() <= idle {
			break
		}
		last = c
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
	}
	r.idle = append(r.idle, last)
	return nil
}

// idleCost is the median start, by process.
func (r *Rig) idleCost() cost {
	median := func(of func(cost) time.Duration) time.Duration {
		var all []float64
		for _, c := range r.idle {
			all = append(all, float64(of(c)))
		}
		return time.Duration(Median(all))
	}
	return cost{client: median(func(c cost) time.Duration { return c.client }), nats: median(func(c cost) time.Duration { return c.nats }),
		engine: median(func(c cost) time.Duration { return c.engine })}
}

// runNode is the way that is compared: a node reads the whole log into both
// tables. What a start costs is taken off.
func (r *Rig) runNode(ctx context.Context) (cost, error) {
	if err := r.stop(); err != nil {
		return cost{}, err
	}
	before, err := CPU(r.nats.PID())
	if err != nil {
		return cost{}, err
	}
	if err := r.start(ctx); err != nil {
		return cost{}, err
	}
	rate, err := r.watch(ctx, "position")
	if err == nil {
		err = awaitBoth(ctx, r.engine, r.messages)
	}
	if err != nil {
		return cost{}, fmt.Errorf("drain: %w", err)
	}
	c, err := r.spent(before)
	if err != nil {
		return c, err
	}
	c = c.minus(r.idleCost())
	c.rate = rate
	c.lost, c.doubled, err = r.losses(ctx, "position")
	return c, err
}

// watch waits until a table has all messages. It returns their rate from the
// first rows that are seen to the last, so that no program's start counts. It
// looks seldom, and asks what costs ClickHouse nothing: looking is CPU, too.
func (r *Rig) watch(ctx context.Context, table string) (float64, error) {
	const patience = 30 * time.Second // without a new row
	var first time.Time
	var had, last int
	moved := time.Now()
	for {
		n, err := r.engine.Count(ctx, "SELECT count() FROM "+table)
		now := time.Now()
		if err != nil {
			return 0, err
		}
		if n > last {
			last, moved = n, now
		}
		switch {
		case n >= r.messages && first.IsZero():
			return 0, nil // over before it was seen: no rate
		case n >= r.messages || now.Sub(moved) > patience && n > 0:
			return float64(n-had) / moved.Sub(first).Seconds(), nil
		case n > 0 && first.IsZero():
			first, had = now, n
		case now.Sub(moved) > 4*patience:
			return 0, errors.New("not one row")
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// losses counts at the far end: a device and its time name a message.
func (r *Rig) losses(ctx context.Context, table string) (lost, doubled int, err error) {
	by := "device, time"
	if table == telegrafTable {
		by = "subject, time"
	}
	rows, err := r.engine.Count(ctx, "SELECT count() FROM "+table)
	if err != nil {
		return 0, 0, err
	}
	distinct, err := r.engine.Count(ctx, "SELECT uniqExact("+by+") FROM "+table)
	return r.messages - distinct, rows - distinct, err
}

// leg measures what runs in this process, or beside it.
func (r *Rig) leg(do func() error) (c cost, err error) {
	read := func() (c cost, err error) {
		if c.client, err = CPU(os.Getpid()); err != nil {
			return c, err
		}
		if c.nats, err = CPU(r.nats.PID()); err != nil {
			return c, err
		}
		c.engine, err = CPU(r.engine.PID())
		return c, err
	}
	before, err := read()
	if err != nil {
		return c, err
	}
	began := time.Now()
	if err := do(); err != nil {
		return c, err
	}
	elapsed := time.Since(began)
	after, err := read()
	c = after.minus(before)
	c.rate = float64(r.messages) / elapsed.Seconds()
	return c, err
}

// create makes a table of the round whose merges wait as those of the node do.
func (r *Rig) create(ctx context.Context, table, as string) error {
	for _, sql := range []string{"DROP TABLE IF EXISTS " + table + " SYNC", "CREATE TABLE " + table + " " + as, "SYSTEM STOP MERGES " + table} {
		if _, err := r.engine.Exec(ctx, sql, nil); err != nil {
			return err
		}
	}
	return nil
}
