package fault

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Autopsy keeps, in the cluster's folder, what tells why it did not become whole:
// the statements that ClickHouse runs, and in the logs of the writers, which it
// ends, where each goroutine was. It comes before Stop.
func (c *Cluster) Autopsy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	running := ""
	note := func(line []byte) error { running += string(line) + "\n"; return nil }
	for _, e := range c.engines {
		if e.host == nil || e.host.Node == nil {
			continue
		}
		running += e.name + "\n"
		if err := e.lines(ctx, "SELECT elapsed, is_cancelled, query_id, query FROM system.processes FORMAT TSV", note); err != nil {
			running += err.Error()
		}
	}
	_ = os.WriteFile(filepath.Join(c.Dir, "clickhouse.running"), []byte(running), 0o600) // it is a help, no more
	c.mu.Lock()
	writers := c.writers
	c.writers = nil
	c.mu.Unlock()
	for _, w := range writers {
		_ = syscall.Kill(w.cmd.Process.Pid, syscall.SIGQUIT)
		select {
		case err := <-w.exited:
			w.exited <- err
		case <-ctx.Done():
		}
		w.Kill()
	}
}
