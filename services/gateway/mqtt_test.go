package gateway_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

const position = `{"time":1700000000000,"latitude":52.5,"longitude":13.4}`

// eachLog runs a test over every kind of log.
func eachLog(t *testing.T, run func(t *testing.T, log events.Log)) {
	t.Run("memlog", func(t *testing.T) { run(t, newMemlog(t)) })
	t.Run("jetlog", func(t *testing.T) { run(t, gatewaytest.JetLog(t, jetlog.Disk, 0)) })
}

func newMemlog(t testing.TB) *memlog.Log {
	l := memlog.New(memlog.Options{})
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mosquitto(t *testing.T, f *gatewaytest.Fixture, name string, args ...string) (string, error) {
	t.Helper()
	host, port, _ := strings.Cut(f.MQTT, ":")
	out, err := exec.CommandContext(t.Context(), gatewaytest.Mosquitto(t, name), append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
	return string(out), err
}

// mosquitto_pub of every version and QoS gets its message into the log byte for
// byte, and gets in by none but its own name and token.
func TestMosquitto(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		f := gatewaytest.Start(t, log, gateway.Limits{})
		token := f.Add(t, "car-1")
		f.Add(t, "car-2")
		want := 0
		for _, version := range []string{"mqttv311", "mqttv5"} {
			for qos := range 3 {
				for _, topic := range []string{"telemetry/position", "telemetry/car-1/position"} {
					if out, err := mosquitto(t, f, "mosquitto_pub", "-V", version, "-u", "car-1", "-P", token, "-q", fmt.Sprint(qos), "-t", topic, "-m", position); err != nil {
						t.Errorf("%s QoS %d %s: %v %s", version, qos, topic, err, out)
					}
					want++
				}
			}
			for _, c := range []struct {
				why  string
				args []string
			}{
				{"wrong token", []string{"-u", "car-1", "-P", token + "x", "-t", "telemetry/position"}},
				{"another's token", []string{"-u", "car-2", "-P", token, "-t", "telemetry/position"}},
				{"unknown device", []string{"-u", "nobody", "-P", token, "-t", "telemetry/position"}},
				{"no token", []string{"-u", "car-1", "-t", "telemetry/position"}},
				{"nothing", []string{"-t", "telemetry/position"}},
				{"another's topic", []string{"-u", "car-1", "-P", token, "-t", "telemetry/car-2/position"}},
				{"the broker's topic", []string{"-u", "car-1", "-P", token, "-t", "$SYS/x"}},
				{"a type that cannot be", []string{"-u", "car-1", "-P", token, "-t", "telemetry/Bad-Name"}},
			} {
				out, err := mosquitto(t, f, "mosquitto_pub", append(c.args, "-V", version, "-q", "1", "-m", position)...)
				if err == nil && out == "" {
					t.Errorf("%s, %s: accepted in silence", version, c.why)
				}
			}
		}
		gatewaytest.Eventually(t, "all messages are stored", func() bool { return len(f.Stored(t, "car-1")) >= want })
		for _, e := range f.Stored(t, "car-1") {
			if string(e.Payload) != position || e.Type != "position" || e.Schema != 1 || !events.ValidID(e.ID) {
				t.Errorf("stored %+v", e)
			}
		}
		if got := len(f.Stored(t, "car-1")); got != want {
			t.Errorf("%d stored, want %d", got, want)
		}
		if got := len(f.Stored(t, "car-2")); got != 0 {
			t.Errorf("%d stored for another device", got)
		}
	})
}
