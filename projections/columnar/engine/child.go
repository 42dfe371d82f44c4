package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

// childEnv marks a process as an engine child; MaybeChild looks for it. Its
// value is the library's path while the process has to confine itself first,
// else childReady.
const (
	childEnv   = "TACHO_ENGINE_CHILD"
	childReady = "1"
)

// An order is what the parent tells the child on its standard input.
type order struct {
	Library  string   `json:"library"`
	Args     []string `json:"args"`
	HTTP     string   `json:"http"` // the engine's own address, to be stopped through
	User     string   `json:"user"`
	Password string   `json:"password"`
}

// MaybeChild runs the engine and never returns when the process was started as
// its child. Programs that start engines call it first thing.
func MaybeChild() {
	var err error
	switch library := os.Getenv(childEnv); library {
	case "":
		return
	case childReady:
		err = ChildMain()
	default:
		err = becomeConfined(library)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// becomeConfined takes every file from this thread that the engine does not
// need, and becomes this program again: a thread's limits hold for what it
// executes, and only so for all the threads of a process. In clickhouse-local,
// which the library is, the function file() reads whatever the process may, for
// any user and without any grant.
func becomeConfined(library string) error {
	runtime.LockOSThread()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := confine(dir, library); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	return syscall.Exec(self, os.Args, childEnvironment(childReady))
}

// childEnvironment is all of the environment that the engine gets: the rest may
// hold secrets, and the engine's users can read it as /proc/self/environ.
func childEnvironment(mark string) []string {
	env := []string{childEnv + "=" + mark}
	for _, name := range []string{"TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// ChildMain is the child: it runs clickhouse-local out of the library until
// its standard input ends.
func ChildMain() error {
	runtime.LockOSThread()
	in := json.NewDecoder(os.Stdin)
	var o order
	if err := in.Decode(&o); err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	handle, err := purego.Dlopen(o.Library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("load %s: %w", o.Library, err)
	}
	if err := guardWrites(o.Library, handle); err != nil {
		return fmt.Errorf("guard the writes of %s: %w", o.Library, err)
	}
	var (
		setSignalHandlers func(int32)
		run               func(int32, unsafe.Pointer) unsafe.Pointer
	)
	// The library's handlers would turn a nil dereference in Go into a hang.
	purego.RegisterLibFunc(&setSignalHandlers, handle, "chdb_set_signal_handlers_enabled")
	purego.RegisterLibFunc(&run, handle, "chdb_query_cmdline")
	setSignalHandlers(0)

	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		over := time.After(stopTime)
		go o.stop()
		<-over
		os.Exit(2)
	}()

	argv := make([]*byte, 0, len(o.Args)+2)
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, arg := range append([]string{"clickhouse-local"}, o.Args...) {
		b := append([]byte(arg), 0)
		pin.Pin(&b[0])
		argv = append(argv, &b[0])
	}
	argv = append(argv, nil)
	pin.Pin(&argv[0])
	run(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	return nil
}

// stopTime is how long a child may take to stop: the engine forces an end after
// 5 s, and one that was still starting has to come up first.
const stopTime = 12 * time.Second

// stop ends the query that keeps the engine open, and all others. The in-process
// user is not allowed to, so it goes the way every client goes. It tries until
// the process ends.
func (o *order) stop() {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // an idle connection would delay the end
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+o.HTTP+"/",
			strings.NewReader("KILL QUERY WHERE query_id != queryID() ASYNC"))
		if err != nil {
			cancel()
			return
		}
		req.Header.Set("X-ClickHouse-User", o.User)
		req.Header.Set("X-ClickHouse-Key", o.Password)
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
		cancel()
		time.Sleep(500 * time.Millisecond)
	}
}
