package columnar

import (
	"fmt"
	"strings"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// position is a sample's place in its partition as one number.
const position = "bitOr(bitShiftLeft(toUInt64(_epoch), 48), _seq)"

// place orders a device's samples in one number: by the device's clock in
// microseconds (56 bits, 2^55 is 1970), then by their place in the log (5 bits of
// epoch, 42 of sequence, 22 of sample). 64 bits below it are for the value.
//
// Buckets of several partitions are added together where the log was split: the later
// one's epoch is the next, its sequences begin anew. The first epoch is 0 here, as in
// tables of releases that left it out; all from the 32nd on are one.
const (
	sequenceBits = 42
	epochBits    = 5
	placeShift   = 64 + 22 + sequenceBits + epochBits
	placeBias    = 1 << 55
)

var place = fmt.Sprintf("bitShiftLeft(toUInt256(toUnixTimestamp64Micro(time) + %d), %d) + bitShiftLeft(toUInt256(_seq + bitShiftLeft(toUInt64(least(greatest(_epoch, 1), %d) - 1), %d)), %d) + bitShiftLeft(toUInt256(_row), 64)",
	placeBias, placeShift, 1<<epochBits, sequenceBits, 64+22)

func asNumber(p events.Position) uint64 { return uint64(p.Epoch)<<48 | p.Seq }

// rollUpSQL adds the samples up to a position to their buckets. A first pass over
// them takes all; one that may have been made before (again) leaves out what a
// bucket has, which costs more.
func (w *Writer) rollUpSQL(s *schemas.Schema, r resolution, to events.Position, again bool) string {
	names, values := rollUpColumns(s, w.cfg.Partition, to)
	used := "device, time, received, _epoch, _seq, _row"
	for _, x := range numericSignals(s) {
		used += ", " + quote(x.column)
	}
	source := fmt.Sprintf("%s WHERE %s", w.table(s.Name()), w.within(to))
	if again {
		known := fmt.Sprintf("SELECT device, toDateTime64(time, 6, 'UTC') AS start, max(_version) AS known FROM %s WHERE _partition = %d AND _version > %d GROUP BY device, start",
			w.table(r.table(s)), w.cfg.Partition, asNumber(w.rolled))
		source = fmt.Sprintf("(SELECT s.* FROM (SELECT %s, %s AS start FROM %s) AS s LEFT JOIN (%s) AS k ON s.device = k.device AND s.start = k.start WHERE %s > k.known) WHERE 1", used, r.bucket, source, known, position)
	}
	// The samples lie in the order of device and time.
	return fmt.Sprintf(`INSERT INTO %s (%s) WITH %s AS bucket, %s AS place SELECT %s FROM %s AND %s GROUP BY device, bucket
		SETTINGS optimize_aggregation_in_order = 1, enable_extended_results_for_datetime_functions = 1`,
		w.table(r.table(s)), names, r.bucket, place, values, source, w.fence())
}

// rollUpColumns are the columns of a roll-up's table and what samples, grouped by
// device and bucket, make them.
func rollUpColumns(s *schemas.Schema, partition uint16, to events.Position) (names, values string) {
	n := []string{"device", "time", "_partition", "_version", "_received"}
	v := []string{"device", "bucket", fmt.Sprintf("toUInt16(%d)", partition), fmt.Sprintf("toUInt64(%d)", asNumber(to)), "toDateTime(max(received))"}
	for _, x := range numericSignals(s) {
		for _, p := range parts {
			n, v = append(n, quote(p.prefix+x.column)), append(v, x.of(p.make))
		}
	}
	return strings.Join(n, ", "), strings.Join(v, ", ")
}

// within are the samples that the roll-ups lack.
func (w *Writer) within(to events.Position) string {
	if w.rolled.Epoch == to.Epoch { // so that the index of _seq is of use
		return fmt.Sprintf("_partition = %d AND _epoch = %d AND _seq > %d AND _seq <= %d", w.cfg.Partition, to.Epoch, w.rolled.Seq, to.Seq)
	}
	return fmt.Sprintf("_partition = %d AND (_epoch, _seq) > (%d, %d) AND (_epoch, _seq) <= (%d, %d)", w.cfg.Partition, w.rolled.Epoch, w.rolled.Seq, to.Epoch, to.Seq)
}
