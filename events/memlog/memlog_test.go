package memlog

import (
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

func TestLog(t *testing.T) {
	logtest.Run(t, func(t *testing.T, partitions int) events.Log {
		l := New(Options{Partitions: partitions})
		t.Cleanup(func() { l.Close() })
		return l
	})
}
