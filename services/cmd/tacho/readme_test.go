package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// TestReadme pastes what the README shows under "Use it", line by line, into a
// shell beside a node that has just been started.
func TestReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("processes of their own, made without the race detector: make test runs this")
	}
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Use it\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var script strings.Builder
	for i, block := range strings.Split(section, "```") {
		if lines, ok := strings.CutPrefix(block, "sh\n"); i%2 == 1 && ok && !strings.HasPrefix(lines, "nats ") { // a foreign program, see services/node
			script.WriteString(lines)
		}
	}
	if n := strings.Count(script.String(), "\n"); n < 8 {
		t.Fatalf("%d lines found", n)
	}
	mosquitto := gatewaytest.Mosquitto(t, "mosquitto_pub")

	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "bin", "tacho"), ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	node := exec.Command(filepath.Join(dir, "bin", "tacho"), "serve", "--data", data, "--ports", "auto")
	var said bytes.Buffer
	node.Stderr = &said
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = node.Process.Signal(os.Interrupt)
		if err := node.Wait(); err != nil {
			t.Error(err, said.String())
		}
	})
	place := Place{Data: data}
	a, err := place.addresses()
	for deadline := time.Now().Add(time.Minute); err != nil; a, err = place.addresses() {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	_, port, err := net.SplitHostPort(a.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.NewReplacer(
		"-p 1883", "-p "+port, "localhost:8080", a.HTTP, "curl ", "curl -sf ", "mosquitto_pub", mosquitto,
		"tacho state car-1 ", "until tacho state car-1; do sleep 0.1; done ", // it follows in its own time
		"tacho sql", "until tacho state car-1 && tacho sql 'SELECT throwIf(count() = 0) FROM tacho.position'; do sleep 0.1; done; tacho sql",
		"tacho tail ", "timeout -s INT 2 tacho tail ",
		"--wait", "--wait || test $? = 1", // the car is offline, and that is said
	).Replace(script.String())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-ux")
	shell.Dir, shell.Stdin = dir, strings.NewReader("trap 'echo FAILED: $BASH_COMMAND' ERR\n"+lines)
	shell.Env = append(os.Environ(), "TACHO_DATA="+data)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, failed := range strings.Split(string(out), "\n") {
		if strings.HasPrefix(failed, "FAILED") && !strings.Contains(failed, "tail") {
			t.Error(failed)
		}
	}
	for _, want := range []string{"position  latitude   52.52", "\t52.52\t13.4\t48.5\n", `{"id":"`, "tyre has version 1", "offline", "\"time\",\"speed\"\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
