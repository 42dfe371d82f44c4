package node

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/latest"
)

// joinLog connects to NATS, its own or another. services is a connection in the
// account of the views.
func (n *Node) joinLog(ctx context.Context) (cfg jetlog.Config, services *nats.Conn, err error) {
	durability, err := jetlog.ParseDurability(n.cfg.Durability)
	if err != nil {
		return cfg, nil, err
	}
	cfg = jetlog.Config{
		Durability: durability, Partitions: n.cfg.Partitions, Replicas: n.cfg.Replicas, MaxBytes: n.cfg.LogBytes, Refill: n.refill, Logger: n.logger, Settle: n.cfg.settle, Fault: n.cfg.fault,
	}
	if n.cfg.NATS == "" {
		cfg.Sync = n.syncData
		services, err = n.startEmbeddedNATS(&cfg)
		return cfg, services, err
	}
	nc, err := n.joinNATS(ctx)
	if err != nil {
		return cfg, nil, fmt.Errorf("connect to NATS at %s: %w", redacted(n.cfg.NATS), err)
	}
	n.onStop("NATS connection", func(context.Context) error { nc.Close(); return nil })
	cfg.Publish, cfg.Read = nc, nc
	n.addrs.NATS = redacted(n.cfg.NATS)
	return cfg, nc, nil
}

// startLog opens the log.
func (n *Node) startLog(ctx context.Context) error {
	cfg, services, err := n.joinLog(ctx)
	if err != nil {
		return err
	}
	if n.refill { // one that was interrupted may have been split already
		counts, err := jetlog.Numbers(ctx, cfg)
		if err != nil {
			return err
		}
		if have := len(counts); have > 0 {
			cfg.Partitions = max(cfg.Partitions, counts[have-1])
		}
		cfg.Seams = n.seams
	}
	n.logConfig = cfg
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
	n.opening = newOpening(n.appends)
	n.appends = n.opening
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
	if cfg.Read, err = e.connect(internalLogUser, jetlog.Tapped()); err != nil {
		return nil, err
	}
	if services, err = e.connect(internalServicesUser, nats.InProcessServer(e.server), nats.CustomInboxPrefix(servicesInbox)); err != nil {
		return nil, err
	}
	if err := serveViews(services); err != nil {
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
