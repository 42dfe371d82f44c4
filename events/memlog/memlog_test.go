package memlog

import (
	"sync/atomic"
	"testing"
	"time"

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

func TestSplit(t *testing.T) {
	logtest.Split(t, func(t *testing.T, partitions int) events.Log {
		l := New(Options{Partitions: partitions})
		t.Cleanup(func() { l.Close() })
		return l
	}, func(_ *testing.T, l events.Log, n int) (events.Log, error) { return l, l.(*Log).Split(n) })
}

func TestOvertaken(t *testing.T) {
	var ago atomic.Int64
	ago.Store(int64(time.Minute))
	l := New(Options{Now: func() time.Time { return time.Now().Add(-time.Duration(ago.Load())) }})
	t.Cleanup(func() { l.Close() })
	logtest.Overtaken(t, l, 40, func() { ago.Store(0) })
}

func TestRebase(t *testing.T) {
	l := New(Options{})
	t.Cleanup(func() { l.Close() })
	logtest.Rebase(t, l)
}
