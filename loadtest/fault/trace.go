// Package fault does to a running Tachograph what may happen to it, and looks
// at what it promised: processes killed at any moment, and the order of its
// system calls, as strace saw them.
package fault

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// A Call is one system call of a trace, with the lines of the trace at which
// it began and ended: between two calls of different threads, only these tell
// which came first.
type Call struct {
	Name       string
	Args       string // as strace prints them
	Result     int64
	Begun, End int

	opened string // the path behind a descriptor that the call returned
}

var (
	lineOf  = regexp.MustCompile(`^(\d+)\s+(?:\d+\.\d+\s+)?(.*)$`)
	resumed = regexp.MustCompile(`^<\.\.\. (\w+) resumed>(.*)$`)
	whole   = regexp.MustCompile(`^(\w+)\((.*)\)\s+=\s+(-?\d+)(?:<([^>]*)>)?`)
)

// ReadTrace reads the output of strace -f -yy -xx: one line a call, or two
// where a call was interrupted by those of other threads. Calls that never
// ended, as the process was killed, are left out.
func ReadTrace(r io.Reader) ([]Call, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 64<<20)
	type open struct {
		name, args string
		line       int
	}
	unfinished := map[string]open{} // by thread
	var calls []Call
	for n := 1; in.Scan(); n++ {
		m := lineOf.FindStringSubmatch(in.Text())
		if m == nil {
			continue
		}
		thread, text := m[1], m[2]
		begun := n
		if head, ok := strings.CutSuffix(text, "<unfinished ...>"); ok {
			if name, args, ok := strings.Cut(head, "("); ok {
				unfinished[thread] = open{name, strings.TrimRight(args, " "), n}
			}
			continue
		}
		if r := resumed.FindStringSubmatch(text); r != nil {
			o, ok := unfinished[thread]
			if !ok || o.name != r[1] {
				return nil, fmt.Errorf("read trace: line %d resumes a call that was not begun", n)
			}
			delete(unfinished, thread)
			text, begun = o.name+"("+o.args+r[2], o.line
		}
		c := whole.FindStringSubmatch(text)
		if c == nil {
			continue // a signal, an exit
		}
		result, err := strconv.ParseInt(c[3], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read trace: line %d: %w", n, err)
		}
		calls = append(calls, Call{Name: c[1], Args: c[2], Result: result, Begun: begun, End: n, opened: plain(c[4])})
	}
	return calls, in.Err()
}

var (
	fileArg   = regexp.MustCompile(`^\d+<([^>]*)>`)
	socketArg = regexp.MustCompile(`^\d+<TCP[^:]*:\[[^\]]*:(\d+)->[^\]]*:(\d+)\]>`)
	stringArg = regexp.MustCompile(`"([^"]*)"`)
	offsetArg = regexp.MustCompile(`, (\d+), (\d+)$`)
)

// file is the path behind the call's descriptor.
func (c *Call) file() string {
	m := fileArg.FindStringSubmatch(c.Args)
	if m == nil {
		return ""
	}
	return plain(m[1])
}

// plain is a path as it is: -xx prints paths as \xHH as well.
func plain(path string) string {
	if strings.HasPrefix(path, `\x`) {
		return string(unhex(path))
	}
	return path
}

// paths are the call's strings.
func (c *Call) paths() (all []string) {
	for _, m := range stringArg.FindAllStringSubmatch(c.Args, -1) {
		all = append(all, plain(m[1]))
	}
	return all
}

// remotePort is the other end's port of the call's socket; 0 for another
// descriptor.
func (c *Call) remotePort() int {
	m := socketArg.FindStringSubmatch(c.Args)
	if m == nil {
		return 0
	}
	port, _ := strconv.Atoi(m[2]) // digits by the pattern
	return port
}

// data is the bytes in the call's first string, which -xx prints in full as \xHH.
func (c *Call) data() []byte {
	start := strings.IndexByte(c.Args, '"')
	if start < 0 {
		return nil
	}
	return unhex(c.Args[start+1:])
}

func unhex(text string) []byte {
	b := make([]byte, 0, len(text)/4)
	for strings.HasPrefix(text, `\x`) && len(text) >= 4 {
		v, err := strconv.ParseUint(text[2:4], 16, 8)
		if err != nil {
			return b
		}
		b, text = append(b, byte(v)), text[4:]
	}
	return b
}

// extent is which bytes of its file a pwrite64 wrote.
func (c *Call) extent() (from, to int64) {
	m := offsetArg.FindStringSubmatch(c.Args)
	if m == nil {
		return 0, 0
	}
	from, _ = strconv.ParseInt(m[2], 10, 64)
	return from, from + c.Result
}
