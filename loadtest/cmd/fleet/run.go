package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

type runCommand struct {
	Tacho string `help:"The tacho program." default:"bin/tacho" type:"path"`
	Data  string `help:"Data folder." default:"data" type:"path"`
	pace
	Demo bool     `help:"Play the demo fleet." default:"true" negatable:""`
	Args []string `arg:"" optional:"" passthrough:"" help:"More flags of tacho serve."`
}

func (c *runCommand) Run(ctx context.Context) error {
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(c.Data, "tacho.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	voice := &voice{log: logFile, terminal: os.Stderr}
	if len(c.Args) > 0 && c.Args[0] == "--" {
		c.Args = c.Args[1:]
	}
	node := exec.Command(c.Tacho, append([]string{"serve", "--data", c.Data}, c.Args...)...)
	node.Stdout, node.Stderr = voice, voice
	// Ctrl-C is ours: the fleet stops first, then the node. Should this program
	// be killed, the node stops as well.
	node.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	exited := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		// Pdeathsig looks at the thread that started the child, so it is kept.
		runtime.LockOSThread()
		err := node.Start()
		started <- err
		if err == nil {
			exited <- node.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", c.Tacho, err)
	}
	err = c.demo(ctx, voice, node.Process.Pid, exited)
	if err != nil && ctx.Err() != nil {
		err = nil // being stopped is how this ends
	}
	select {
	case nodeErr := <-exited:
		return fmt.Errorf("tacho serve ended: %v; see %s", nodeErr, logFile.Name())
	default:
	}
	fmt.Fprintln(os.Stderr, "stopping")
	_ = node.Process.Signal(syscall.SIGTERM)
	select {
	case nodeErr := <-exited:
		return errors.Join(err, nodeErr)
	case <-time.After(45 * time.Second):
		_ = node.Process.Kill()
		return errors.Join(err, errors.New("tacho serve did not stop in time and was killed; nothing acknowledged is lost"))
	}
}

// demo plays until ctx or the node ends.
func (c *runCommand) demo(ctx context.Context, v *voice, pid int, exited chan error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a node that ends, ends the demo
		select {
		case err := <-exited:
			exited <- err
			cancel()
		case <-ctx.Done():
		}
	}()
	n, err := c.await(ctx, pid)
	if err != nil {
		return err
	}
	v.quiet()
	if c.Demo {
		if err := c.pace.play(ctx, n); err != nil {
			return err
		}
		if ctx.Err() == nil {
			fmt.Println("the recorded day is over; the node goes on until Ctrl-C")
		}
	} else {
		fmt.Println(newStatus(n, nil).hints())
	}
	<-ctx.Done()
	return nil
}

// await finds the node once it has written its addresses and is ready. Those of
// a killed predecessor bear another process id.
func (c *runCommand) await(ctx context.Context, pid int) (*fleet.Node, error) {
	for {
		n, err := fleet.Find(c.Data)
		if err == nil && n.PID == pid {
			return n, n.AwaitReady(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// A voice passes what the node says to its log, and to the terminal until the
// status line takes over.
type voice struct {
	mu       sync.Mutex
	log      io.Writer
	terminal io.Writer
}

func (v *voice) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.terminal != nil {
		_, _ = v.terminal.Write(p)
	}
	return v.log.Write(p)
}

func (v *voice) quiet() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.terminal = nil
}
