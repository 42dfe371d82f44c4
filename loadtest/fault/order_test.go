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
	const msgs = `/data/nats/jetstream/TACHO/streams/TELEMETRY_0/msgs`
	block := `9<` + msgs + `/1.blk>`
	other := `10<` + msgs + `/2.blk>`
	write := `100 pwrite64(` + block + `, "` + xx("..payload-7..") + `", 13, 40) = 13`
	sync := `101 fsync(` + block + `) = 0`
	ack := `102 write(12<TCP:[127.0.0.1:1883->127.0.0.1:40000]>, "` + xx("\x40\x02\x00\x06"+puback7) + `", 8) = 8`
	made := `100 openat(AT_FDCWD</>, "` + xx(msgs+"/1.blk") + `", O_RDWR|O_CREAT|O_CLOEXEC, 0640) = 9<` + xx(msgs+"/1.blk") + `>`
	named := `101 fsync(11<` + xx(msgs) + `>) = 0`
	folder := `100 mkdirat(AT_FDCWD</>, "` + xx(msgs) + `", 0755) = 0`
	stream := `101 fsync(11<` + strings.TrimSuffix(msgs, "/msgs") + `>) = 0`
	meta := `100 write(13<` + strings.TrimSuffix(msgs, "msgs") + `meta.inf>, "` + xx("{}") + `", 2) = 2`
	metaSync := `101 fsync(13<` + strings.TrimSuffix(msgs, "msgs") + `meta.inf>) = 0`
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
		"sync of another block":        {[]string{write, `101 fsync(` + other + `) = 0`, ack}, false},
		"sync that failed":             {[]string{write, `101 fsync(` + block + `) = -1 EIO (Input/output error)`, ack}, false},
		"no sync":                      {[]string{write, ack}, false},
		"never written":                {[]string{sync, ack}, false},
		"ack on another socket":        {[]string{write, sync, strings.Replace(ack, "40000", "40001", 1)}, false},
		"new block, in order":          {[]string{made, write, sync, named, ack}, true},
		"new block, its name not":      {[]string{made, write, sync, ack, named}, false},
		"name synced too early":        {[]string{named, made, write, sync, ack}, false},
		"new directory, in order":      {[]string{folder, made, write, sync, named, stream, ack}, true},
		"new directory, its name not":  {[]string{folder, made, write, sync, named, ack}, false},
		"the stream's own, in order":   {[]string{meta, metaSync, write, sync, ack}, true},
		"the stream's own, not synced": {[]string{meta, write, sync, ack, metaSync}, false},
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

func TestExtent(t *testing.T) {
	calls, err := ReadTrace(strings.NewReader(strings.Join([]string{
		`1 pwrite64(9</d/1.blk>, "` + xx("abcd") + `", 4, 0) = 4`,
		`1 pwrite64(9</d/1.blk>, "` + xx("efgh") + `", 4, 4) = 4`,
		`2 fsync(9</d/1.blk>) = 0`,
		`1 pwrite64(9</d/1.blk>, "` + xx("ijkl") + `", 4, 8) = 4`,
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	d := ReadDisk(calls)
	if d.Extent("/d/1.blk", End) != 8 || d.Extent("/d/1.blk", 3) != 0 || d.Settled("/d/1.blk", End) || !d.Settled("/d/1.blk", 4) {
		t.Fatalf("synced up to %d", d.Extent("/d/1.blk", End))
	}
}

func TestTraceThatIsTorn(t *testing.T) {
	for text, good := range map[string]bool{
		"1 <... fsync resumed>) = 0":                                 false,
		"1 fsync(9</d> <unfinished ...>\n1 <... write resumed>) = 0": false,
		"1 fsync(9</d> <unfinished ...>":                             true, // the process was killed
		"1 +++ killed by SIGKILL +++\n\nnonsense":                    true,
	} {
		if calls, err := ReadTrace(strings.NewReader(text)); (err == nil) != good || len(calls) != 0 {
			t.Errorf("%q: %v, %v", text, calls, err)
		}
	}
}
