package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tachograph/tachograph/loadtest/ledger"
)

const shortLog = "a log that comes back shorter"

// shorten stops everything and starts it with a log that lacks its newest part,
// which the tables have. The writer must notice and go no further, whatever is
// appended in the place of what is gone. In the end the log is whole again.
func (t *Trial) shorten(ctx context.Context, r *rand.Rand) error {
	c := t.Cluster
	if err := t.heal(ctx); err != nil {
		return err
	}
	kept := filepath.Join(c.Dir, "log")
	defer os.RemoveAll(kept)
	c.KillNATS()
	if err := errors.Join(c.copyLog(filepath.Join(kept, "short")), c.StartNATS(), c.grow(ctx), pause(ctx, ms(r, 0, 1000))); err != nil {
		return err
	}
	if err := t.Senders.End(healing); err != nil {
		return err
	}
	if _, err := c.Judge(ctx, nil, catching); err != nil { // the tables have everything
		return err
	}
	before, err := c.number(ctx, "SELECT count() FROM tacho.events FORMAT TSV")
	if err != nil {
		return err
	}
	c.KillWriters()
	c.KillGateway()
	c.KillNATS()
	if err := errors.Join(c.copyLog(filepath.Join(kept, "whole")), c.putLog(filepath.Join(kept, "short")), c.StartNATS(), c.StartGateway(), c.StartWriter()); err != nil {
		return err
	}
	// Others take the places of what is gone: fewer than that, or more.
	ghosts := &Senders{to: c, tokens: t.Senders.tokens}
	ghosts.clock.Store(1_600_000_000_000)
	ghosts.version.Store(1)
	ghosts.Begin(ctx, r.Uint64())
	noticed := t.awaitDiverged(ctx, healing)
	if err := errors.Join(ghosts.End(healing), noticed); err != nil {
		return err
	}
	after, err := c.number(ctx, "SELECT count() FROM tacho.events FORMAT TSV")
	if err != nil {
		return err
	}
	old, err := c.number(ctx, "SELECT count() FROM tacho.events WHERE kind = 'telemetry' AND time < '2021-01-01' FORMAT TSV")
	if err != nil {
		return err
	}
	if after != before || old != 0 {
		return fmt.Errorf("tacho.events went from %d to %d rows, %d of them in the place of others", before, after, old)
	}
	t.Shortened++
	c.KillWriters()
	c.KillGateway()
	c.KillNATS()
	if err := errors.Join(c.putLog(filepath.Join(kept, "whole")), c.StartNATS(), c.StartGateway(), c.StartWriter()); err != nil {
		return err
	}
	t.Senders.Begin(ctx, r.Uint64())
	return nil
}

// grow waits until the tables have more of each partition than the log has now.
func (c *Cluster) grow(ctx context.Context) error {
	for deadline := time.Now().Add(healing); ; {
		now, err := c.readLog(ctx, ledger.NewBook(nil).Place())
		if err == nil {
			for p := range c.Partitions {
				now.newest[p]++
			}
			return c.await(ctx, now, catching)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for more messages: %w", err)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitDiverged waits until the writer says so of every partition of telemetry
// that it has something of.
func (t *Trial) awaitDiverged(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		said := ""
		node, err := t.Cluster.Writer().find()
		if err == nil {
			err = call(ctx, node, http.MethodGet, "/v1/projections", nil, func(line []byte) error { said += string(line); return nil })
		}
		var answer struct {
			Projections []struct {
				Name      string
				Partition int
				LastError string `json:"last_error"`
			}
		}
		if err == nil {
			err = json.Unmarshal([]byte(said), &answer)
		}
		told := 0
		for _, p := range answer.Projections {
			if p.Name == "columnar" && p.Partition < t.Cluster.Partitions && strings.Contains(p.LastError, "log differs from what the reader has") {
				told++
			}
		}
		if err == nil && told == t.Cluster.Partitions {
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("nobody noticed within %s that the log is shorter: %s %w", patience, said, err)
		}
	}
}

func (c *Cluster) streams() ([]string, error) {
	return filepath.Glob(filepath.Join(c.nats.dir, "jetstream", "*", "streams", "TELEMETRY_*"))
}

// copyLog keeps the telemetry of a log whose server is not running.
func (c *Cluster) copyLog(to string) error {
	streams, err := c.streams()
	if err == nil && len(streams) != c.Partitions {
		err = fmt.Errorf("%d streams of telemetry", len(streams))
	}
	for _, s := range streams {
		err = errors.Join(err, os.CopyFS(filepath.Join(to, filepath.Base(s)), os.DirFS(s)))
	}
	return err
}

// putLog puts what copyLog has kept in the place of what is there.
func (c *Cluster) putLog(from string) error {
	streams, err := c.streams()
	for _, s := range streams {
		err = errors.Join(err, os.RemoveAll(s), os.CopyFS(s, os.DirFS(filepath.Join(from, filepath.Base(s)))))
	}
	return err
}
