package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/columnar/engine"
)

// startEngine starts ClickHouse, or names the one there is. The gateway does
// not wait for it: what cars send meanwhile is in the log.
func (n *Node) startEngine(context.Context) error {
	if !n.cfg.Has("project") {
		return nil
	}
	var err error
	if len(n.cfg.ClickHouse) > 0 {
		if n.shards, err = n.cfg.existingShards(); err == nil {
			_, n.addrs.ClickHouseHTTP, _ = strings.Cut(n.shards.Servers[0].URL, "://")
		}
		return err
	}
	cache, err := engine.CacheDir()
	if err != nil {
		return err
	}
	// What no waiting mends is told at once: the wrong machine, a wrong library.
	if _, err := engine.Find(cache); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	writer, err := secret(n.cfg.file("clickhouse.writer.password"))
	if err != nil {
		return err
	}
	analyst, err := secret(n.cfg.file("clickhouse.analyst.password"))
	if err != nil {
		return err
	}
	query, err := secret(n.cfg.file("clickhouse.query.password"))
	if err != nil {
		return err
	}
	cfg := engine.Config{
		Dir: n.cfg.file("clickhouse"), Host: n.cfg.ClickHouseHost, Database: n.cfg.Database, Memory: n.cfg.ClickHouseMemory,
		WriterPassword: writer, AnalystPassword: analyst, QueryPassword: query, Query: n.cfg.engineLimits(), DiskReserve: n.cfg.LogReserve / 4, Logger: n.logger,
	}
	cfg.Reserved = n.cfg.Ports == "auto"
	for _, p := range []struct {
		into *int
		port int
		flag string
	}{{&cfg.NativePort, n.cfg.ClickHouseNativePort, "clickhouse-native-port"}, {&cfg.HTTPPort, n.cfg.ClickHouseHTTPPort, "clickhouse-http-port"}} {
		if *p.into, err = n.enginePort(p.port, p.flag); err != nil {
			return err
		}
	}
	n.addrs.ClickHouseNative = net.JoinHostPort(n.cfg.ClickHouseHost, fmt.Sprint(cfg.NativePort))
	n.addrs.ClickHouseHTTP = net.JoinHostPort(n.cfg.ClickHouseHost, fmt.Sprint(cfg.HTTPPort))
	n.addrs.ClickHousePasswordFile = n.cfg.file("clickhouse.analyst.password")
	n.addrs.ClickHouseUser = engine.AnalystUser
	n.shards = columnar.NewShards("", columnar.Server{URL: "http://" + n.addrs.ClickHouseHTTP, User: engine.WriterUser, Password: writer, Database: n.cfg.Database})
	n.engineReady = make(chan struct{})
	n.setWaiting("ClickHouse", "starting")
	n.run("ClickHouse", func(ctx context.Context) error { return n.runEngine(ctx, cache, cfg) })
	return nil
}

// enginePort returns a port of the engine's. A free one is kept for it: the engine
// listens there later than this process on others, and again after it has died.
func (n *Node) enginePort(port int, flag string) (int, error) {
	if n.cfg.Ports != "auto" {
		return n.freePort(n.cfg.ClickHouseHost, port, flag)
	}
	port, release, err := engine.Reserve(n.cfg.ClickHouseHost)
	if err == nil {
		n.onStop("reserved port", func(context.Context) error { return release() })
	}
	return port, err
}

// runEngine keeps the embedded ClickHouse alive until ctx ends, then stops it.
// A registry that cannot be reached, or a start that fails, is tried again.
func (n *Node) runEngine(ctx context.Context, cache string, cfg engine.Config) error {
	e, err := n.bringUpEngine(ctx, cache, cfg)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.engine = e
	n.mu.Unlock()
	n.setWaiting("ClickHouse", "")
	close(n.engineReady)
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return e.Stop(stopping)
}

func (n *Node) bringUpEngine(ctx context.Context, cache string, cfg engine.Config) (*engine.Engine, error) {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		var e *engine.Engine
		var err error
		if cfg.Library, err = engine.Fetch(ctx, cache, os.Stderr); err == nil {
			e, err = engine.Start(ctx, cfg)
		}
		if err == nil || ctx.Err() != nil {
			return e, err
		}
		n.logger.Error("ClickHouse is not there; the log keeps what is to come", "error", err, "again_in", pause)
		n.setWaiting("ClickHouse", err.Error())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
