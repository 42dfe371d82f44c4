package jetlog

import (
	"testing"
	"time"
)

// TestMetadata reads both forms of a delivery's reply subject.
func TestMetadata(t *testing.T) {
	at := time.Unix(1700000000, 5).UTC()
	for _, reply := range []string{
		"$JS.ACK.TELEMETRY_0.name.1.42.7.1700000000000000005.99",
		"$JS.ACK._.hash.TELEMETRY_0.name.1.42.7.1700000000000000005.99",
		"$JS.ACK.hub.hash.TELEMETRY_0.name.1.42.7.1700000000000000005.99.token",
	} {
		if seq, delivery, got, err := metadata(reply); seq != 42 || delivery != 7 || !got.Equal(at) || err != nil {
			t.Errorf("%s: %d %d %s %v", reply, seq, delivery, got, err)
		}
	}
	for _, reply := range []string{"", "_INBOX.x", "$JS.ACK.a.b.1.x.7.5.99", "$JS.ACK.a.b.1.42.x.5.99", "$JS.ACK.a.b.1.42.7.x.99", "$JS.ACK.a.b.1.42.7", "............................"} {
		if _, _, _, err := metadata(reply); err == nil {
			t.Errorf("%q is taken for a delivery", reply)
		}
	}
}
