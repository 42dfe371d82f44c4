package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// Start is Launch and Await.
func Start(ctx context.Context, tacho, dir string, wrap []string, args ...string) (*Process, error) {
	p, err := Launch(tacho, dir, wrap, args...)
	if err != nil {
		return nil, err
	}
	if err := p.Await(ctx); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// Launch runs tacho serve on free ports with a data folder. wrap, for example
// strace and its flags, goes in front of the command.
func Launch(tacho, dir string, wrap []string, args ...string) (*Process, error) {
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
	return p, nil
}

// Await waits until the node is ready. It tells the end of what the node said
// if it never is.
func (p *Process) Await(ctx context.Context) (err error) {
	for {
		if p.Node, err = fleet.Find(p.Dir); err == nil {
			short, cancel := context.WithTimeout(ctx, time.Second) // it may end meanwhile
			err = p.Node.AwaitReady(short)
			cancel()
			if err == nil {
				return nil
			}
		}
		select {
		case end := <-p.exited:
			p.exited <- end
			err = fmt.Errorf("it ended: %v", end)
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
			continue
		}
		said, _ := os.ReadFile(p.log.Name())
		return fmt.Errorf("start node in %s: %w: %s", p.Dir, err, said[max(0, len(said)-2000):])
	}
}

// find returns where the node listens, before it is ready too.
func (p *Process) find() (*fleet.Node, error) { return fleet.Find(p.Dir) }

func (p *Process) hasEnded() bool {
	select {
	case end := <-p.exited:
		p.exited <- end
		return true
	default:
		return false
	}
}

// Kill ends everything at once, as kill -9 does: the node and, in groups of
// their own, the children it started. It returns when they are gone: a dying
// child may still write files.
func (p *Process) Kill() {
	children := descendants(p.cmd.Process.Pid)
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.exited
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if !slices.ContainsFunc(children, func(pid int) bool { return syscall.Kill(pid, 0) == nil }) {
			break
		}
	}
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

// Stop asks the node to stop and waits. A process that is left behind is an error.
func (p *Process) Stop() error {
	children := descendants(p.cmd.Process.Pid)
	defer p.log.Close()
	if err := syscall.Kill(p.Node.PID, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop node: %w", err)
	}
	select {
	case err := <-p.exited:
		for _, pid := range children {
			if syscall.Kill(pid, 0) == nil {
				err = errors.Join(err, fmt.Errorf("stop node: process %d is left", pid))
			}
		}
		return err
	case <-time.After(60 * time.Second):
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
