package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/services/archive"
)

// Import refills the log that the configuration names, which must be empty, from
// an archive. No node may run on it; the first one that starts folds everything
// anew. obey and tell are those of archive.Import.
//
// Errors: jetlog.ErrNotEmpty.
func Import(ctx context.Context, cfg Config, from *archive.Archive, obey []*archive.Archive, logger *slog.Logger, tell func(phase string, done, total uint64)) (_ archive.Report, err error) {
	cfg.Ports = "auto"
	if err := cfg.Validate(); err != nil {
		return archive.Report{}, err
	}
	n := &Node{cfg: cfg, logger: logger, refill: true, waiting: map[string]string{}, broken: make(chan struct{}), metrics: prometheus.NewRegistry()}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer func() {
		stopping, done := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer done()
		err = errors.Join(err, n.Stop(stopping))
	}()
	if err := n.startFolder(ctx); err != nil {
		return archive.Report{}, err
	}
	i := archive.Import{Archive: from, Obey: obey, Partitions: cfg.Partitions, Sync: func() error { return nil }}
	i.Open = func(ctx context.Context, partitions int) (*jetlog.Log, error) {
		if n.log == nil {
			n.seams = from.LogLayout().Seams()
			n.cfg.Partitions = partitions
			if err := n.startLog(ctx); err != nil {
				return nil, err
			}
		} else if err := n.reopenLog(ctx, partitions); err != nil {
			return nil, err
		}
		return n.log, nil
	}
	if cfg.NATS == "" {
		i.Sync = n.syncData
	}
	i.Progress = func(phase string, done, total uint64) {
		if n.disk != nil && n.disk.free.Load() < n.disk.reserve {
			cancel(fmt.Errorf("import: less than %d bytes of the disk are free (remedy: make room, or a smaller --log-reserve, then run the import again: it goes on where it was)", n.disk.reserve))
		}
		tell(phase, done, total)
	}
	report, err := i.Run(ctx)
	if full := context.Cause(ctx); err != nil && full != nil {
		err = full
	}
	return report, err
}

// reopenLog splits a log that is being refilled, as it was, and opens it anew.
func (n *Node) reopenLog(ctx context.Context, partitions int) error {
	if err := n.log.Close(); err != nil {
		return err
	}
	n.logConfig.Partitions = partitions
	if _, err := jetlog.Split(ctx, n.logConfig); err != nil {
		return err
	}
	log, err := jetlog.Open(ctx, n.logConfig)
	if err == nil {
		n.log = log
	}
	return err
}
