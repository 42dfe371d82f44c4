package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

// The test binary is tacho, too: scripts run it as a command, and a node that a
// script starts runs it again to host ClickHouse.
func TestMain(m *testing.M) {
	engine.MaybeChild()
	testscript.Main(m, map[string]func(){"tacho": main})
}

// The scripts in testdata are the command line's specification: those in usage
// need no node, those in node start real ones.
func TestScripts(t *testing.T) {
	for _, dir := range []string{"usage", "node"} {
		t.Run(dir, func(t *testing.T) {
			if dir == "node" && testing.Short() {
				t.Skip("long: make test runs this; the node's own tests do the same for the race detector")
			}
			testscript.Run(t, testscript.Params{
				Dir:                 filepath.Join("testdata", dir),
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				Setup:               setup,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"ready":      ready,
					"send":       send,
					"refused":    refusedSend,
					"eventually": eventually,
					"tail":       tail,
					"tailed":     endOfTail,
					"exits":      exits,
					"cancel":     cancelCommand,
					"show":       showCommand,
					"harm":       harm,
				},
			})
		})
	}
}

// setup keeps the library's cache and takes away what would change a node.
func setup(env *testscript.Env) error {
	cache := os.Getenv("TACHO_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		cache = filepath.Join(dir, "tachograph")
	}
	env.Setenv("TACHO_CACHE", cache)
	env.Setenv("HOME", env.WorkDir) // npm wants one when the cache is empty
	env.Values[tailKey{}] = new(atomic.Pointer[tailing])
	return nil
}

// ready DIR waits until the node of the data folder says that it is.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	place := Place{Data: ts.MkAbs(args[0])}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // an empty cache is filled first
	defer cancel()
	for ctx.Err() == nil {
		if a, err := place.addresses(); err == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, withScheme(a.HTTP, "http")+"/readyz", nil)
			ts.Check(err)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close() // the status is all that counts
				if resp.StatusCode == http.StatusOK {
					return
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("the node of %s is not ready", args[0])
}

// exits CODE COMMAND runs the command and wants that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if failure := (*exec.ExitError)(nil); errors.As(err, &failure) {
		code = failure.ExitCode()
	} else if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("%v: exit code %d, want %s", args[1:], code, want)
	}
}

// cancel DIR DEVICE FILE cancels the command whose id is in the file.
func cancelCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: cancel DIR DEVICE FILE")
	}
	ts.Check(ts.Exec("tacho", "command", "cancel", args[1], strings.TrimSpace(ts.ReadFile(args[2])), "--data", args[0]))
}

// show DIR DEVICE FILE [ARG...] shows the command whose id is in the file.
func showCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: show DIR DEVICE FILE [ARG...]")
	}
	err := ts.Exec("tacho", append([]string{"command", "show", args[1], strings.TrimSpace(ts.ReadFile(args[2])), "--data", args[0]}, args[3:]...)...)
	if neg == (err == nil) {
		ts.Fatalf("command show %v: %v", args, err)
	}
}

// eventually COMMAND repeats the command until it succeeds; its last output is
// what stdout and stderr see.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually COMMAND [ARG...]")
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: %v", args, err)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// A tailing is a tail at work, by the script that runs it.
type tailing struct {
	done   chan error
	stdout bytes.Buffer
}

type tailKey struct{}

// tail starts tacho tail with the arguments and returns once it listens; tailed
// FILE waits for its end and puts what it printed into the file.
func tail(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: tail [ARG...]")
	}
	bin, _, _ := strings.Cut(ts.Getenv("PATH"), string(os.PathListSeparator)) // testscript puts it first
	cmd := exec.Command(filepath.Join(bin, "tacho"), append([]string{"tail"}, args...)...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME")}
	t := &tailing{done: make(chan error, 1)}
	cmd.Stdout = &t.stdout
	notes, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { _ = cmd.Process.Kill() }) // it has ended already if all is well
	lines := bufio.NewScanner(notes)
	if !lines.Scan() || !strings.Contains(lines.Text(), "listening") {
		ts.Fatalf("tail: %s", lines.Text())
	}
	go func() {
		for lines.Scan() {
		}
		t.done <- cmd.Wait()
	}()
	ts.Value(tailKey{}).(*atomic.Pointer[tailing]).Store(t)
}

func endOfTail(ts *testscript.TestScript, neg bool, args []string) {
	t := ts.Value(tailKey{}).(*atomic.Pointer[tailing]).Load()
	if neg || len(args) != 1 || t == nil {
		ts.Fatalf("usage: tailed FILE, after tail")
	}
	select {
	case err := <-t.done:
		ts.Check(err)
	case <-time.After(3 * time.Minute):
		ts.Fatalf("tail: the event did not come")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), t.stdout.Bytes(), 0o600))
}

// send DIR TOKENFILE DEVICE MESSAGE BODY sends one message over HTTP.
func send(ts *testscript.TestScript, neg bool, args []string) { post(ts, neg, args, true) }

// refused is send to a node that must not take it.
func refusedSend(ts *testscript.TestScript, neg bool, args []string) { post(ts, neg, args, false) }

func post(ts *testscript.TestScript, neg bool, args []string, taken bool) {
	if neg || len(args) != 5 {
		ts.Fatalf("usage: send DIR TOKENFILE DEVICE MESSAGE BODY")
	}
	a, err := (&Place{Data: ts.MkAbs(args[0])}).addresses()
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		withScheme(a.HTTP, "http")+pathOf("v1", "devices", args[2], "telemetry", args[3]), strings.NewReader(args[4]))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(ts.ReadFile(args[1])))
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Logf("%s %s", resp.Status, body)
	if (resp.StatusCode/100 == 2) != taken {
		ts.Fatalf("the message was answered %s", resp.Status)
	}
}
