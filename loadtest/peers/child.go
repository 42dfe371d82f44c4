package peers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A child is a server under measurement, in a process of its own so that its
// CPU can be told from the client's. It dies with this process.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{}
	log    *os.File
}

func startChild(cmd *exec.Cmd, log string) (*child, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, exited: make(chan struct{}), log: f}
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	cmd.Stderr = f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig looks at the thread that started the child
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended stands in its log
			close(c.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop asks first and kills after half a minute.
func (c *child) stop() error {
	defer c.log.Close()
	select {
	case <-c.exited:
		return fmt.Errorf("%s ended early: %s; see %s", c.cmd.Path, c.cmd.ProcessState, c.log.Name())
	default:
	}
	err := c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.exited:
		return err
	case <-time.After(30 * time.Second):
		err = errors.Join(err, fmt.Errorf("%s did not stop", c.cmd.Path), c.cmd.Process.Kill())
		<-c.exited
		return err
	}
}

// CPU is the processor time that a process has used, its threads included.
// Clock ticks are hundredths of a second on Linux.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The program's name, in parentheses, may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("cpu of process %d: %d fields", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] { // user, system
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cpu of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

func firstLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	return strings.TrimSpace(line), err
}
