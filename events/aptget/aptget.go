// Package aptget installs the Debian packages that tests need.
package aptget

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Program returns the path of a program. On Debian it installs the package that
// has it when it is missing; where it can't, the test fails and says what to do.
// Tests of several packages may ask at once.
func Program(t testing.TB, name, pkg string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	said, err := install(pkg)
	path, missing := exec.LookPath(name)
	if missing != nil {
		t.Fatalf("%s is missing and could not be installed; install the package %s (as root: apt-get install %s)\n%v\n%s", name, pkg, pkg, err, said)
	}
	return path
}

// install waits its turn: apt-get refuses to run twice at a time, and its own
// wait (DPkg::Lock::Timeout) is for the installation alone, not for the lists.
func install(pkg string) (said []byte, err error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("tacho-apt-get-%d.lock", os.Getuid())), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // ends the lock
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	aptGet := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		return cmd.CombinedOutput()
	}
	_, _ = aptGet("update") // without it the lists may still do
	return aptGet("install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=240", pkg)
}
