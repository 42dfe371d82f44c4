package gatewaytest

import (
	"testing"

	"github.com/tachograph/tachograph/events/aptget"
)

// Mosquitto returns the path of mosquitto_pub or mosquitto_sub.
func Mosquitto(t testing.TB, name string) string {
	t.Helper()
	return aptget.Program(t, name, "mosquitto-clients")
}
