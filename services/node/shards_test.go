package node

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
	"github.com/tachograph/tachograph/projections/forgotten"
)

// onShards is the configuration of a node with two ClickHouse servers.
func onShards(t *testing.T, partitions string) Config {
	t.Helper()
	var urls []string
	engines := enginetest.StartShards(t, "fleet", 2)
	for _, e := range engines {
		user, password := e.Writer()
		urls = append(urls, fmt.Sprintf("http://%s:%s@%s", user, password, e.HTTPAddr()))
	}
	user, password := engines[1].Query()
	c := defaults(t, "--partitions", partitions, "--clickhouse", strings.Join(urls, ","), "--clickhouse-cluster", "fleet",
		"--clickhouse-query", fmt.Sprintf("http://%s:%s@%s", user, password, engines[1].HTTPAddr()))
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSplitShards: devices that a split moves to a partition at another ClickHouse
// server have rows at both. What they send again is known over the seam, all that
// goes over tables goes over both, and what is forgotten takes what repeats it at
// the other server along.
func TestSplitShards(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and most of it is ClickHouse's: make test runs this")
	}
	t.Parallel()
	c := onShards(t, "2")
	n := startNode(t, c)
	const cars = 12
	for car := range cars {
		publish(t, n, fmt.Sprint("car-", car), 0, 10)
	}
	awaitRows(t, n, "SELECT count(), uniqExact(_partition) FROM tacho.position", fmt.Sprintf("%d\t2", cars*10))
	cut := time.Now()
	stopNode(t, n)
	c.Partitions = 6
	if had, err := Split(t.Context(), c, slog.New(slog.DiscardHandler)); err != nil || had != 2 {
		t.Fatal(had, err)
	}
	n = startNode(t, c)
	moved := "" // to another server
	for car := range cars {
		device := fmt.Sprint("car-", car)
		publish(t, n, device, 0, 5)
		publish(t, n, device, 100, 5)
		if way := n.telemetryPartitions(device); len(way) == 2 && way[0]%2 != way[1]%2 {
			moved = device
		}
	}
	if moved == "" {
		t.Fatal("no device has moved to another server")
	}
	awaitRows(t, n, "SELECT count(), countIf(repeat) FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprintf("%d\t%d", cars*20, cars*5))
	awaitRows(t, n, "SELECT count(), uniqExact(device, time) FROM tacho.position", fmt.Sprintf("%[1]d\t%[1]d", cars*15))
	awaitRows(t, n, fmt.Sprintf("SELECT uniqExact(_partition %% 2) FROM tacho.events WHERE device = '%s' AND kind = 'telemetry'", moved), "2")
	awaitRows(t, n, "SELECT sum(count) FROM tacho.position_1h WHERE signal = 'speed'", fmt.Sprint(cars*15))
	for _, name := range []string{"columnar", "latest"} {
		for _, table := range replayOnce(t, n, name, false).Tables {
			if !table.Equal() {
				t.Errorf("%s: %+v", name, table)
			}
		}
	}
	audit := func() {
		t.Helper()
		if report, err := n.audit.Run(t.Context()); err != nil || !report.Equal() {
			t.Errorf("%+v, %v", report, err)
		}
	}
	audit()
	forget(t, n, moved, cut)
	awaitRows(t, n, fmt.Sprintf("SELECT count(), (SELECT count() FROM tacho.events WHERE device = '%[1]s' AND kind = 'telemetry') FROM tacho.position WHERE device = '%[1]s'", moved), "5\t5")
	awaitRows(t, n, "SELECT sum(count) FROM tacho.position_1h WHERE signal = 'speed'", fmt.Sprint(cars*15-10))
	audit()
	state, err := n.past.At(t.Context(), moved, time.Now())
	if err != nil || state.Events != 5 {
		t.Errorf("%d events of %s are left in its state, %v", state.Events, moved, err)
	}
}

// TestShards: two ClickHouse servers have the partitions between them, and all that
// the node does with its tables goes over both.
func TestShards(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and its writers race in columnar's: make test runs this")
	}
	t.Parallel()
	c := onShards(t, "4")
	n := startNode(t, c)
	const cars, each = 6, 10
	for car := range cars {
		publish(t, n, fmt.Sprint("car-", car), 0, each)
	}
	awaitRows(t, n, "SELECT count(), uniqExact(_partition % 2) FROM tacho.position", fmt.Sprintf("%d\t2", cars*each))
	awaitRows(t, n, "SELECT countIf(kind = 'credential') FROM tacho.events", fmt.Sprint(cars))
	if got := ask(t, n, "SELECT countIf(kind = 'credential'), uniqExact(_partition % 2) FROM events"); got != "200 0\t2" {
		t.Errorf("who may only read sees %q", got)
	}
	awaitRows(t, n, "SELECT countDistinct(device) FROM tacho.presence", fmt.Sprint(cars))
	if s := replayOnce(t, n, "columnar", false); len(s.Tables) == 0 {
		t.Errorf("%+v", s)
	}
	report, err := n.audit.Run(t.Context())
	if err != nil || !report.Equal() || report.Events < cars*each {
		t.Errorf("%+v, %v", report, err)
	}
	gone := "" // a car with rows at one shard and its connections at the other
	for car := range cars {
		if device := fmt.Sprint("car-", car); n.log.Layout().PartitionOf(events.Slot(device))%2 == 1 {
			gone = device
		}
	}
	cut := time.Now()
	counts, _, err := forgetTables{n}.Count(t.Context(), forgotten.Request{Device: gone, Asked: forgotten.Asked{To: cut}})
	if err != nil || counts["position"] != each || counts["presence"] == 0 {
		t.Errorf("%v, %v", counts, err)
	}
	forget(t, n, gone, cut)
	awaitRows(t, n, fmt.Sprintf("SELECT count(), countIf(device = '%s') FROM tacho.position", gone), fmt.Sprintf("%d\t0", (cars-1)*each))
	awaitRows(t, n, fmt.Sprintf("SELECT countIf(device = '%s' AND toUnixTimestamp64Micro(received) < %d), count() > 0 FROM tacho.presence", gone, cut.UnixMicro()), "0\t1")
	stopNode(t, n)

	c.ClickHouse[0], c.ClickHouse[1] = c.ClickHouse[1], c.ClickHouse[0]
	n, err = Start(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer stopNode(t, n)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, why := n.Ready()
		if said := strings.Join(why, "\n"); strings.Count(said, "is shard 2 of 2, not 1 of 2") >= 3 { // two partitions, and the control facts
			break
		} else if time.Now().After(deadline) {
			t.Fatal(said)
		}
	}
}

// forget has all of a device before a time forgotten.
func forget(t *testing.T, n *Node, device string, to time.Time) {
	t.Helper()
	r, err := n.forgetter.Ask(t.Context(), device, time.Time{}, to, "test")
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); r.Done == nil; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 4*time.Minute {
			t.Fatal("not forgotten: ", n.forgetter.Doing(r.ID))
		}
		r, _ = n.ledger.Get(r.ID)
	}
}
