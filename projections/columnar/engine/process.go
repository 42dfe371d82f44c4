package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A process is the child as its parent sees it.
type process struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	stderr  *tail
	started time.Time
	exited  chan struct{} // closed when it has ended, err is set then
	err     error
}

// startProcess starts this program again as a child and gives it its orders.
//
// What ties the child's life to the parent's is its standard input, of which
// the parent alone has the other end: the kernel closes it whatever ends the
// parent. (Pdeathsig looks at the thread that started the child, not at the
// process, and would give it no time to stop.) Its process group is its own,
// so that a terminal's Ctrl-C does not reach it: it is the parent's to stop,
// after all that writes to it.
func startProcess(o order, dir string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	mark := childReady
	if confinable() == nil {
		mark = o.Library
	}
	cmd.Env = childEnvironment(mark)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, stdin: stdin, stderr: &tail{}, started: time.Now(), exited: make(chan struct{})}
	cmd.Stderr = p.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	if err := json.NewEncoder(stdin).Encode(o); err != nil {
		p.kill()
		return nil, fmt.Errorf("give orders: %w: %s", err, p.stderr)
	}
	return p, nil
}

// stop lets the child end in order.
func (p *process) stop() {
	_ = p.stdin.Close() // a child that has ended has closed it
	select {
	case <-p.exited:
	case <-time.After(stopTime + time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.exited
}

// brokenWrite and an errno make the exit status of a child that could not write.
const brokenWrite = 128

// why says how the child ended.
func (p *process) why() error {
	said := p.stderr.String()
	var exit *exec.ExitError
	switch {
	case errors.As(p.err, &exit) && exit.ExitCode() > brokenWrite:
		return fmt.Errorf("it ended rather than go on without what it could not write to %s: %w", p.cmd.Dir, syscall.Errno(exit.ExitCode()-brokenWrite))
	case p.err == nil && said == "":
		return fmt.Errorf("it ended without a word")
	case p.err == nil:
		return fmt.Errorf("it ended: %s", said)
	case said == "":
		return p.err
	}
	return fmt.Errorf("%w: %s", p.err, said)
}

// A tail keeps the last of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if excess := len(t.b) - tailBytes; excess > 0 {
		t.b = append(t.b[:0], t.b[excess:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
