package fleet

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

// natsLink sends requests to the car's ingest subject. The reply subject ends
// in the slot.
type natsLink struct {
	nc             *nats.Conn
	subject, inbox string
	window         int
	ear            ear

	mu     sync.Mutex
	closed bool
}

func openNATS(addr, car, token string, window int, e ear) (link, error) {
	l := &natsLink{subject: "ingest." + events.Escape(car) + ".position", inbox: "_INBOX_" + events.Escape(car) + ".load.",
		window: window, ear: e}
	var err error
	l.nc, err = nats.Connect(addr, nats.UserInfo(car, token), nats.NoReconnect(), nats.Timeout(ackPatience),
		nats.ClosedHandler(func(nc *nats.Conn) {
			l.unlessClosed(func() {
				if err := nc.LastError(); err != nil {
					e.broken(err)
				} else {
					e.broken(errors.New("the node ended the connection"))
				}
			})
		}))
	if err == nil {
		if _, err = l.nc.Subscribe(l.inbox+"*", l.heard); err == nil {
			err = l.nc.FlushTimeout(ackPatience)
		}
		if err != nil {
			l.close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", car, err)
	}
	return l, nil
}

// heard takes an answer: the message's id, or the API's error body with its
// status in a header, as NATS services have it.
func (l *natsLink) heard(m *nats.Msg) {
	slot, err := strconv.Atoi(strings.TrimPrefix(m.Subject, l.inbox))
	if err != nil || slot < 0 || slot >= l.window {
		return // nobody's answer
	}
	refusal := ""
	if code := m.Header.Get("Nats-Service-Error-Code"); code != "" {
		refusal = "status " + code
	} else if status := m.Header.Get("Status"); status != "" {
		refusal = "nats status " + status // 503: nobody listens
	}
	l.unlessClosed(func() {
		l.ear.acknowledged(slot, refusal)
		l.ear.free(slot)
	})
}

func (l *natsLink) unlessClosed(tell func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		tell()
	}
}

func (l *natsLink) send(slot int, payload []byte) error {
	return l.nc.PublishRequest(l.subject, l.inbox+strconv.Itoa(slot), payload)
}

func (l *natsLink) flush() error { return nil } // the client's own flusher does it

func (l *natsLink) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.nc.Close()
}
