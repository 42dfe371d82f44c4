package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tachograph/tachograph/services/api"
	"github.com/tachograph/tachograph/services/auth"
)

func (n *Node) listen(flag string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", n.cfg.address(n.cfg.Host, port))
	if err != nil {
		return nil, portTaken(flag, err)
	}
	if n.cfg.TLSCert == "" {
		return l, nil
	}
	cert, err := tls.LoadX509KeyPair(n.cfg.TLSCert, n.cfg.TLSKey)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), nil
}

func (n *Node) startAPI(context.Context) error {
	admin, err := auth.AdminToken(n.cfg.Data)
	if err != nil {
		return err
	}
	analyst, err := auth.AnalystToken(n.cfg.Data)
	if err != nil {
		return err
	}
	n.addrs.AdminTokenFile = n.cfg.file("admin.token")
	l, err := n.listen("http-port", n.cfg.HTTPPort)
	if err != nil {
		return err
	}
	var telemetry http.Handler // nil: the API says that there is no gateway here
	if n.gateway != nil {
		telemetry = n.gateway.TelemetryHandler()
	}
	handler := api.New(api.Config{
		Log: n.appends, History: n.history, Catalog: n.catalog, Auth: n.auth, Admin: admin, Analyst: analyst, KV: n.views, Past: n.past, Replays: n.replays, Letters: n.letters, Audit: n.audit, Janitor: n.janitor, Forgetter: n.forgetter, Shadows: n.shadows, Commands: n.commands, Roster: n.roster, Query: n.queries, Telemetry: telemetry,
		Ready: n.Ready, Metrics: n.metrics, Runners: n.runners, Logger: n.logger,
	})
	if !n.cfg.Has("api") && !n.cfg.Has("gateway") {
		handler = health(handler)
	}
	server := api.Server(handler, n.logger)
	n.addrs.HTTP = l.Addr().String()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.logger.Error("HTTP stopped", "error", err)
			n.setWaiting("HTTP", err.Error())
		}
	}()
	n.onStop("HTTP", func(ctx context.Context) error {
		// Answers that stream would use up the time that the others need.
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		<-ended
		return err
	})
	return nil
}

// health is what a process shows of itself that serves nobody.
func health(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"GET /healthz", "GET /readyz", "GET /metrics"} {
		mux.Handle(path, h)
	}
	return mux
}
