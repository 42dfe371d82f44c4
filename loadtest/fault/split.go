package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
)

const splitLog = "a split of the log"

// In one trial of so many the log is split in the midst, unless it was split
// before as often as is good for a machine: each partition has a writer.
const (
	splitEvery     = 3
	mostPartitions = 6
)

// Widest is how many partitions splits may make of the cluster's log.
func (c *Cluster) Widest() int {
	n := c.Partitions
	for 2*n <= mostPartitions {
		n *= 2
	}
	return n
}

// split stops whoever knows how many partitions there are, makes twice as many with
// tacho split, at times ended with -9 and done again, and starts all with the new
// number. Devices go on to send, again what was not acknowledged before.
func (t *Trial) split(ctx context.Context, r *rand.Rand) error {
	c := t.Cluster
	if c.Widest() == c.Partitions {
		return nil
	}
	c.KillGateway()
	c.KillWriters()
	alone := len(c.engines) == 1 // its host is a writer
	if alone {
		c.engines[0].host.Kill()
	}
	kill := r.IntN(2) == 0
	after := ms(r, 0, 400)
	c.Partitions *= 2
	for ended := false; !ended; kill = false {
		splitting := exec.CommandContext(ctx, c.Tacho, append([]string{"split", "--data", filepath.Join(c.Dir, "split")}, c.shared()...)...)
		if kill {
			if err := errors.Join(splitting.Start(), pause(ctx, after), splitting.Process.Kill()); err != nil {
				return err
			}
			_ = splitting.Wait() // that it was killed is the point
			continue
		}
		if said, err := splitting.CombinedOutput(); err != nil {
			return fmt.Errorf("tacho split: %w: %s", err, said)
		}
		ended = true
	}
	t.Splits++
	if alone {
		if err := c.startEngines(ctx); err != nil {
			return err
		}
	}
	return errors.Join(c.StartGateway(), c.StartWriter())
}
