package fault

import (
	"bytes"
	"fmt"
	"strings"
)

// An Ack is a PUBACK that a device heard: on which of its ports, for which
// packet id, and the bytes of the message it stands for.
type Ack struct {
	Port     int
	PacketID uint16
	Payload  []byte
}

// CheckOrder holds a trace to the promise: for every acknowledgement, the
// bytes of its message were written into a block of the telemetry log, then
// an fsync of that block began and ended, and only then did the PUBACK go out.
// It returns a sentence for each that broke it.
func CheckOrder(calls []Call, acks []Ack) (broken []string) {
	for _, ack := range acks {
		if why := checkOne(calls, ack); why != "" {
			broken = append(broken, fmt.Sprintf("packet %d of port %d: %s", ack.PacketID, ack.Port, why))
		}
	}
	return broken
}

func checkOne(calls []Call, ack Ack) string {
	written, block := 0, ""
	for i := range calls {
		c := &calls[i]
		if c.Name == "pwrite64" && isBlock(c.file()) && c.Result > 0 && bytes.Contains(c.data(), ack.Payload) {
			written, block = c.End, c.file()
			break
		}
	}
	if written == 0 {
		return "its bytes were never written to the log"
	}
	synced := 0
	for i := range calls {
		c := &calls[i]
		if (c.Name == "fsync" || c.Name == "fdatasync") && c.file() == block && c.Begun > written && c.Result == 0 {
			synced = c.End
			break
		}
	}
	if synced == 0 {
		return "its block was never synced"
	}
	puback := []byte{0x40, 0x02, byte(ack.PacketID >> 8), byte(ack.PacketID)}
	for i := range calls {
		c := &calls[i]
		if (c.Name == "write" || c.Name == "sendto" || c.Name == "writev") && c.remotePort() == ack.Port && containsPacket(c.data(), puback) {
			if c.Begun < synced {
				return fmt.Sprintf("the PUBACK went out at line %d, the sync ended at line %d", c.Begun, synced)
			}
			return ""
		}
	}
	return "no PUBACK in the trace"
}

func isBlock(path string) bool {
	return strings.Contains(path, "/TELEMETRY_") && strings.HasSuffix(path, ".blk")
}

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

// Synced returns, for each block file, up to which byte it was on disk when
// the last call of the trace ended: the writes that had ended when an fsync of
// the file began which ended as well.
func Synced(calls []Call) map[string]int64 {
	synced := map[string]int64{}
	for i := range calls {
		s := &calls[i]
		if s.Name != "fsync" && s.Name != "fdatasync" || s.Result != 0 {
			continue
		}
		for j := range calls {
			w := &calls[j]
			if w.Name == "pwrite64" && w.file() == s.file() && w.End < s.Begun {
				_, to := w.extent()
				synced[s.file()] = max(synced[s.file()], to)
			}
		}
	}
	return synced
}
