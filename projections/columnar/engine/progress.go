package engine

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// A meter shows how far something is: on a terminal a bar that grows in place,
// else a line every two seconds.
type meter struct {
	w        io.Writer
	terminal bool
	what     string
	total    int64
	n        int64
	shown    time.Time
}

func newMeter(w io.Writer, what string, total int64) *meter {
	m := &meter{w: w, what: what, total: total}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		m.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return m
}

// at shows that n bytes are there, unless something was shown a moment ago.
func (m *meter) at(n int64) {
	m.n = min(n, m.total)
	every := 2 * time.Second
	if m.terminal {
		every = 100 * time.Millisecond
	}
	if time.Since(m.shown) >= every {
		m.show()
	}
}

const barWidth = 30

func (m *meter) show() {
	m.shown = time.Now()
	percent := m.n * 100 / max(m.total, 1)
	if !m.terminal {
		fmt.Fprintf(m.w, "%s: %d of %d MB, %d %%\n", m.what, m.n/1e6, m.total/1e6, percent)
		return
	}
	full := int(m.n * barWidth / max(m.total, 1))
	fmt.Fprintf(m.w, "\r%s [%s%s] %d of %d MB, %d %%\x1b[K", m.what,
		strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), m.n/1e6, m.total/1e6, percent)
}

// end shows the last state and leaves the line.
func (m *meter) end(whole bool) {
	if whole {
		m.n = m.total
	}
	m.show()
	if m.terminal {
		fmt.Fprintln(m.w)
	}
}
