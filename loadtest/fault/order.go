package fault

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
)

// An Ack is a PUBACK that a device heard: on which of its ports, for which
// packet id, and the bytes of the message it stands for.
type Ack struct {
	Device   string
	Port     int
	PacketID uint16
	Payload  []byte
}

// CheckOrder holds a trace to the promise: for every acknowledgement, the
// bytes of its message were written into a block of the telemetry log, then
// an fsync of that block began and ended, and only then did the PUBACK go out;
// by then the way to the block was on disk as well: its name, those of the
// directories above it, and what the stream says of itself (meta.inf,
// meta.sum). It returns a sentence for each that broke it.
func CheckOrder(calls []Call, acks []Ack) (broken []string) {
	disk := ReadDisk(calls)
	for _, ack := range acks {
		if why := checkOne(calls, disk, ack); why != "" {
			broken = append(broken, fmt.Sprintf("packet %d of port %d: %s", ack.PacketID, ack.Port, why))
		}
	}
	return broken
}

func checkOne(calls []Call, disk *Disk, ack Ack) string {
	written, block := 0, ""
	for i := range calls {
		c := &calls[i]
		if c.Name == "pwrite64" && isTelemetryBlock(c.file()) && c.Result > 0 && bytes.Contains(c.data(), ack.Payload) {
			written, block = c.End, c.file()
			break
		}
	}
	if written == 0 {
		return "its bytes were never written to the log"
	}
	heard := ack.line(calls)
	switch {
	case heard == 0:
		return "no PUBACK in the trace"
	case !disk.syncedBetween(block, written, End):
		return "its block was never synced"
	case !disk.syncedBetween(block, written, heard):
		return fmt.Sprintf("the PUBACK went out at line %d, before its block was synced", heard)
	}
	stream := filepath.Dir(filepath.Dir(block))
	for _, path := range []string{block, filepath.Join(stream, "meta.inf"), filepath.Join(stream, "meta.sum")} {
		if lost := disk.Unnamed(path, heard); lost != "" {
			return fmt.Sprintf("the PUBACK went out at line %d, before %s was synced in its directory", heard, lost)
		}
		if path != block && !disk.Settled(path, heard) {
			return fmt.Sprintf("the PUBACK went out at line %d, before %s was synced", heard, path)
		}
	}
	return ""
}

// line is where the PUBACK began to be written; 0 if it never was.
func (a Ack) line(calls []Call) int {
	puback := []byte{0x40, 0x02, byte(a.PacketID >> 8), byte(a.PacketID)}
	for i := range calls {
		c := &calls[i]
		if (c.Name == "write" || c.Name == "sendto" || c.Name == "writev") && c.remotePort() == a.Port && containsPacket(c.data(), puback) {
			return c.Begun
		}
	}
	return 0
}

func isTelemetryBlock(path string) bool {
	return isBlock(path) && strings.Contains(path, "/TELEMETRY_")
}

// isBlock tells the files that hold the log.
func isBlock(path string) bool { return isLog(path) && strings.HasSuffix(path, ".blk") }

// isLog tells the files of the log's streams, which live in an account of their own.
func isLog(path string) bool { return strings.Contains(path, "/TACHO/streams/") }

// containsPacket looks for a PUBACK among the packets of one write.
func containsPacket(data, puback []byte) bool {
	for len(data) >= 2 {
		n := 2 + int(data[1]) // what a gateway sends here is shorter than 128 bytes
		if len(data) < n {
			return false
		}
		if bytes.Equal(data[:min(n, 4)], puback) {
			return true
		}
		data = data[n:]
	}
	return false
}
