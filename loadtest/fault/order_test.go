package fault

import (
	"fmt"
	"strings"
	"testing"
)

func xx(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, `\x%02x`, s[i])
	}
	return b.String()
}

const puback7 = "\x40\x02\x00\x07"

// TestOrderIsSeen: the judge passes the right order, also when calls of
// several threads interrupt each other, and fails every wrong one.
func TestOrderIsSeen(t *testing.T) {
	block := `9</data/nats/jetstream/TACHO/streams/TELEMETRY_0/msgs/1.blk>`
	other := `10</data/nats/jetstream/TACHO/streams/TELEMETRY_0/msgs/2.blk>`
	write := `100 pwrite64(` + block + `, "` + xx("..payload-7..") + `", 13, 40) = 13`
	sync := `101 fsync(` + block + `) = 0`
	ack := `102 write(12<TCP:[127.0.0.1:1883->127.0.0.1:40000]>, "` + xx("\x40\x02\x00\x06"+puback7) + `", 8) = 8`
	for name, c := range map[string]struct {
		lines []string
		good  bool
	}{
		"in order": {[]string{write, sync, ack}, true},
		"interrupted, in order": {[]string{
			`100 pwrite64(` + block + `, "` + xx("payload-7") + `", 9, 0 <unfinished ...>`,
			`103 futex(0x1, 0) = 0`,
			`100 <... pwrite64 resumed>) = 9`,
			`101 fsync(` + block + ` <unfinished ...>`, `103 futex(0x1, 0) = 0`, `101 <... fsync resumed>) = 0`, ack,
		}, true},
		"sync after the ack": {[]string{write, ack, sync}, false},
		"ack while the sync runs": {[]string{
			write, `101 fsync(` + block + ` <unfinished ...>`, ack, `101 <... fsync resumed>) = 0`,
		}, false},
		"sync began before the write ended": {[]string{
			`101 fsync(` + block + ` <unfinished ...>`, write, `101 <... fsync resumed>) = 0`, ack,
		}, false},
		"sync of another block": {[]string{write, `101 fsync(` + other + `) = 0`, ack}, false},
		"sync that failed":      {[]string{write, `101 fsync(` + block + `) = -1 EIO (Input/output error)`, ack}, false},
		"no sync":               {[]string{write, ack}, false},
		"never written":         {[]string{sync, ack}, false},
		"ack on another socket": {[]string{write, sync, strings.Replace(ack, "40000", "40001", 1)}, false},
	} {
		calls, err := ReadTrace(strings.NewReader(strings.Join(c.lines, "\n")))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		broken := CheckOrder(calls, []Ack{{Port: 40000, PacketID: 7, Payload: []byte("payload-7")}})
		if (len(broken) == 0) != c.good {
			t.Errorf("%s: %v", name, broken)
		}
	}
}

func TestSynced(t *testing.T) {
	calls, err := ReadTrace(strings.NewReader(strings.Join([]string{
		`1 pwrite64(9</d/1.blk>, "` + xx("abcd") + `", 4, 0) = 4`,
		`1 pwrite64(9</d/1.blk>, "` + xx("efgh") + `", 4, 4) = 4`,
		`2 fsync(9</d/1.blk>) = 0`,
		`1 pwrite64(9</d/1.blk>, "` + xx("ijkl") + `", 4, 8) = 4`,
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if got := Synced(calls)["/d/1.blk"]; got != 8 {
		t.Fatalf("synced up to %d", got)
	}
}
