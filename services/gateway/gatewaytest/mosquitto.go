package gatewaytest

import (
	"context"
	"os/exec"
	"sync"
	"testing"
	"time"
)

var installing sync.Mutex

// Mosquitto returns the path of mosquitto_pub or mosquitto_sub. On Debian it
// installs the package when it is missing; where it can't, the test fails and
// says what to do.
func Mosquitto(t testing.TB, name string) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var said []byte
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "mosquitto-clients"}} {
		said, _ = exec.CommandContext(ctx, "apt-get", args...).CombinedOutput()
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing and could not be installed; install the package mosquitto-clients (as root: apt-get install mosquitto-clients)\n%s", name, said)
	}
	return path
}
