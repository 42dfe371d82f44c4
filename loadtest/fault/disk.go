package fault

import (
	"math"
	"path/filepath"
	"strings"
)

// A Disk is what a trace tells about files: which bytes and which names a
// power failure would have left. Lines are those of the trace.
type Disk struct {
	made   map[string][]int  // name -> lines at which it came to be
	wrote  map[string][]span // file -> writes
	synced map[string][]span // file or directory -> fsyncs that succeeded
}

// A span is a call's first and last line; to is where in its file a write ended.
type span struct {
	begun, end int
	to         int64
}

// End is after the last line of every trace.
const End = math.MaxInt

// ReadDisk collects the calls that matter.
func ReadDisk(calls []Call) *Disk {
	d := &Disk{made: map[string][]int{}, wrote: map[string][]span{}, synced: map[string][]span{}}
	for i := range calls {
		c := &calls[i]
		if c.Result < 0 {
			continue
		}
		switch c.Name {
		case "fsync", "fdatasync":
			d.synced[c.file()] = append(d.synced[c.file()], span{begun: c.Begun, end: c.End})
		case "pwrite64":
			_, to := c.extent()
			d.wrote[c.file()] = append(d.wrote[c.file()], span{c.Begun, c.End, to})
		case "write", "writev":
			if path := c.file(); strings.HasPrefix(path, "/") {
				d.wrote[path] = append(d.wrote[path], span{begun: c.Begun, end: c.End})
			}
		case "openat":
			// Opened again to be written, it is the same name.
			if len(d.made[c.opened]) == 0 && strings.Contains(c.Args, "O_CREAT") {
				d.made[c.opened] = append(d.made[c.opened], c.End)
			}
		case "mkdirat", "mkdir", "renameat", "renameat2", "rename":
			paths := c.paths()
			if len(paths) > 0 {
				path := paths[len(paths)-1]
				d.made[path] = append(d.made[path], c.End)
			}
		}
	}
	return d
}

// Syncs counts the fsyncs of files that is says yes to.
func (d *Disk) Syncs(is func(path string) bool) (n int) {
	for path, all := range d.synced {
		if is(path) {
			n += len(all)
		}
	}
	return n
}

// syncedBetween finds an fsync that began after one line and ended before
// another; it covers what had happened up to the first.
func (d *Disk) syncedBetween(path string, after, before int) bool {
	for _, s := range d.synced[path] {
		if s.begun > after && s.end < before {
			return true
		}
	}
	return false
}

// Unnamed returns the first of a file and the directories above it whose name
// a power failure at a line would take; "" if there is none. What the trace saw
// come into being has to be synced in its directory.
func (d *Disk) Unnamed(path string, at int) string {
	for ; len(path) > 1; path = filepath.Dir(path) {
		for _, line := range d.made[path] {
			if line < at && !d.syncedBetween(filepath.Dir(path), line, at) {
				return path
			}
		}
	}
	return ""
}

// Settled tells whether all that was written to a file before a line was
// synced before it.
func (d *Disk) Settled(path string, at int) bool {
	for _, w := range d.wrote[path] {
		if w.end < at && !d.syncedBetween(path, w.end, at) {
			return false
		}
	}
	return true
}

// Extent is up to which byte a file written by pwrite64 was synced before a
// line: the writes that had ended when an fsync began that ended in time.
func (d *Disk) Extent(path string, at int) (to int64) {
	for _, w := range d.wrote[path] {
		if d.syncedBetween(path, w.end, at) {
			to = max(to, w.to)
		}
	}
	return to
}
