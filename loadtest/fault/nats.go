package fault

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsEnv names address and data folder to the process that is to be a
// nats-server: host:port;folder.
const natsEnv = "TACHO_FAULT_NATS"

// MaybeNATS makes this process a nats-server if a Cluster started it as one,
// and then does not return. It comes first in main, or in TestMain.
func MaybeNATS() {
	at, dir, ok := strings.Cut(os.Getenv(natsEnv), ";")
	if !ok {
		return
	}
	if err := serveNATS(at, dir); err != nil {
		fmt.Fprintln(os.Stderr, "nats-server:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveNATS serves as compose.yaml has it, until standard input ends.
func serveNATS(at, dir string) error {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return err
	}
	o := &server.Options{Host: host, ServerName: "cluster", JetStream: true, StoreDir: dir, SyncAlways: true, MaxPayload: 2 << 20}
	if o.Port, err = strconv.Atoi(port); err != nil {
		return err
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.SetLoggerV2(nil, false, false, false)
	s.Start()
	if !s.ReadyForConnections(60 * time.Second) {
		return errors.New("not ready after a minute")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// A natsProcess is a nats-server at an address that stays the same.
type natsProcess struct {
	at, dir string
	cmd     *exec.Cmd
	stdin   io.Closer
}

func newNATS(dir string) (*natsProcess, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return &natsProcess{at: l.Addr().String(), dir: dir}, nil
}

func (n *natsProcess) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n.cmd = exec.Command(self)
	n.cmd.Env = append(os.Environ(), natsEnv+"="+n.at+";"+n.dir)
	n.cmd.Stderr = os.Stderr
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := n.cmd.StdinPipe() // the kernel closes it when this process ends
	if err != nil {
		return err
	}
	n.stdin = in
	if err := n.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", n.at)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nats-server at %s: %w", n.at, err)
		}
	}
}

// kill ends it with -9.
func (n *natsProcess) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait() // that it was killed is the point
	_ = n.stdin.Close()
	n.cmd = nil
}
