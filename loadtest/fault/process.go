package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// A Process is tacho serve, with all it starts, in a process group of its own.
type Process struct {
	Node *fleet.Node
	Dir  string

	cmd    *exec.Cmd
	exited chan error
	log    *os.File
}

// Start runs tacho serve on free ports with a data folder and waits until it
// is ready. wrap, for example strace and its flags, goes in front of the command.
func Start(ctx context.Context, tacho, dir string, wrap []string, args ...string) (*Process, error) {
	fail := func(err error) (*Process, error) { return nil, fmt.Errorf("start node in %s: %w", dir, err) }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	_ = os.Remove(filepath.Join(dir, "addresses.json")) // a killed predecessor's
	log, err := os.OpenFile(dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fail(err)
	}
	line := append(append([]string{}, wrap...), tacho, "serve", "--data", dir, "--ports", "auto")
	p := &Process{Dir: dir, log: log, exited: make(chan error, 1), cmd: exec.Command(line[0], append(line[1:], args...)...)}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return fail(errors.Join(err, log.Close()))
	}
	go func() { p.exited <- p.cmd.Wait() }()
	for {
		if p.Node, err = fleet.Find(dir); err == nil {
			if err = p.Node.AwaitReady(ctx); err == nil {
				return p, nil
			}
		}
		select {
		case err := <-p.exited:
			p.exited <- err
			said, _ := os.ReadFile(log.Name())
			return fail(fmt.Errorf("it ended: %v: %s", err, said[max(0, len(said)-2000):]))
		case <-ctx.Done():
			p.Kill()
			said, _ := os.ReadFile(log.Name())
			return fail(fmt.Errorf("%w: %s", ctx.Err(), said[max(0, len(said)-2000):]))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends everything at once, as kill -9 does: the node and, in groups of
// their own, the children it started.
func (p *Process) Kill() {
	children := descendants(p.cmd.Process.Pid)
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.exited
	_ = p.log.Close()
}

// KillEngine ends the ClickHouse child alone. It returns false where there is none.
func (p *Process) KillEngine() bool {
	for _, pid := range descendants(p.cmd.Process.Pid) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			return true
		}
	}
	return false
}

// Stop asks the node to stop and waits.
func (p *Process) Stop() error {
	defer p.log.Close()
	if err := syscall.Kill(p.Node.PID, syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-p.exited:
		return err
	case <-time.After(60 * time.Second):
		p.exited <- nil
		p.Kill()
		return errors.New("stop node: it did not stop within a minute")
	}
}

// descendants lists the processes below one, from /proc.
func descendants(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	parent := map[int]int{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var id, up int
		var name string
		var state byte
		if _, err := fmt.Sscanf(string(b), "%d %s %c %d", &id, &name, &state, &up); err == nil {
			parent[id] = up
		}
	}
	var below []int
	for id := range parent {
		for up := parent[id]; up > 1; up = parent[up] {
			if up == pid {
				below = append(below, id)
				break
			}
		}
	}
	return below
}
