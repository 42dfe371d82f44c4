package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar"
)

// TestSwapCutOff: ClickHouse goes away while tables are exchanged. The writers that
// were stopped for that don't go on before the rest is exchanged too.
func TestSwapCutOff(t *testing.T) {
	n := startNode(t, defaults(t))
	publish(t, n, "car-1", 0, 20)
	awaitRows(t, n, "SELECT count() FROM tacho.position", "20")
	var writers []*projections.Restartable
	for _, r := range n.runners {
		if r.Name() == "columnar" {
			writers = append(writers, r.(*projections.Restartable))
		}
	}
	gone := errors.New("gone")
	replay := columnar.Replay{Writer: n.audit.Writer, Partitions: []uint16{0, 256}, Pause: pauseAll(writers), Fault: func(step string) error {
		if strings.HasSuffix(step, " events") { // checkpoints come before it, position after it
			return gone
		}
		return nil
	}}
	if _, err := replay.Build(t.Context(), projections.Order{}, func(projections.Progress) {}); !errors.Is(err, gone) {
		t.Fatal(err)
	}
	publish(t, n, "car-1", 100, 20)
	awaitRows(t, n, "SELECT count(), uniqExact(_seq) FROM tacho.position", "40\t40")
	awaitRows(t, n, "SELECT count() FROM system.tables WHERE database = 'tacho' AND name = '_swap'", "0")
	awaitRows(t, n, "SELECT max(seq) FROM tacho.checkpoints WHERE partition = 0", "40")
	report, err := n.audit.Run(t.Context())
	if err != nil || !report.Equal() || report.Events < 40 {
		t.Errorf("%+v, %v", report, err)
	}
}
