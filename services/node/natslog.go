package node

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A natsLogger passes on what people should know of the embedded server. The
// server writes a line for everything that it refuses, and whoever reaches its
// port can have it refuse a million things a second: refusals are counted, and
// of the lines only so many pass.
type natsLogger struct {
	logger  *slog.Logger
	refused *prometheus.CounterVec

	broken chan struct{} // closed when a write to a stream has failed
	once   sync.Once

	mu      sync.Mutex
	left    float64 // lines that may pass
	since   time.Time
	dropped int
}

const (
	natsLinesAtOnce    = 20
	natsLinesPerSecond = 1
)

func newNATSLogger(logger *slog.Logger) *natsLogger {
	l := &natsLogger{logger: logger, left: natsLinesAtOnce, since: time.Now(), broken: make(chan struct{}), refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tacho_nats_refused_total", Help: "What the embedded NATS server refused: connections (authentication), subjects (permission).",
	}, []string{"reason"})}
	for _, reason := range []string{"authentication", "permission"} {
		l.refused.WithLabelValues(reason)
	}
	return l
}

// pass tells whether a line may be written, and how many were not since the
// last one.
func (l *natsLogger) pass() (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.left = min(l.left+now.Sub(l.since).Seconds()*natsLinesPerSecond, natsLinesAtOnce)
	l.since = now
	if l.left < 1 {
		l.dropped++
		return 0, false
	}
	l.left--
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}

func (l *natsLogger) say(level func(string, ...any), text string) {
	dropped, ok := l.pass()
	switch {
	case !ok:
	case dropped > 0:
		level("nats-server: "+text, "lines_left_out", dropped)
	default:
		level("nats-server: " + text)
	}
}

// Noticef implements server.Logger, as the others do.
func (l *natsLogger) Noticef(string, ...any) {}

// Debugf says nothing.
func (l *natsLogger) Debugf(string, ...any) {}

// Tracef says nothing.
func (l *natsLogger) Tracef(string, ...any) {}

// Warnf passes on a warning.
func (l *natsLogger) Warnf(format string, args ...any) {
	l.say(l.logger.Warn, fmt.Sprintf(format, args...))
}

// Errorf counts a refusal and passes on an error.
func (l *natsLogger) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	switch {
	case strings.Contains(text, "authentication error"):
		l.refused.WithLabelValues("authentication").Inc()
		l.say(l.logger.Warn, text)
		return
	case strings.Contains(text, " Violation - "):
		l.refused.WithLabelValues("permission").Inc()
		l.say(l.logger.Warn, text)
		return
	// A stream that could not be written to takes nothing in any more and answers
	// nobody, however much room there is later (nats-server 2.15); nowhere else
	// does the server say so.
	case strings.Contains(text, "ritical write error"), strings.Contains(text, "will be DISABLED"):
		l.once.Do(func() { close(l.broken) })
	}
	l.say(l.logger.Error, text)
}

// Fatalf passes on an error, always.
func (l *natsLogger) Fatalf(format string, args ...any) {
	l.logger.Error("nats-server: " + fmt.Sprintf(format, args...))
}
