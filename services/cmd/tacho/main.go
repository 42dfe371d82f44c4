// Command tacho is Tachograph: serve runs a node, the other commands talk to
// one that runs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

func main() { os.Exit(tacho()) }

// tacho is main without the exit, so that tests can run it as a command.
func tacho() int {
	// A node starts this binary again to host ClickHouse; nothing of the command
	// line may come before.
	engine.MaybeChild()
	if len(os.Args) > 1 && os.Args[1] == "engine-child" {
		if err := engine.ChildMain(); err != nil {
			fmt.Fprintln(os.Stderr, "tacho engine-child:", err)
			return exitFailed
		}
		return exitOK
	}
	ctx, stop := interruptible()
	defer stop()
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// interruptible returns a context that the first interrupt ends. The second
// ends the process: somebody who asks twice does not want to wait.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
		case <-done:
			return
		}
		cancel()
		select {
		case <-signals:
			os.Exit(exitInterrupted)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}
