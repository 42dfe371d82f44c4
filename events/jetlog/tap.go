package jetlog

import (
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// Tapped makes a connection whose deliveries Follow reads from beneath nats.go,
// without a Msg for each; use it for Config.Read, behind all other options.
// Everything but these deliveries passes through, byte for byte. Where the bytes
// cannot be read (TLS, a web socket, a connection in the process), the option has
// no effect.
func Tapped() nats.Option {
	return func(o *nats.Options) error {
		t := &tap{dialer: o.CustomDialer, waiting: map[string]*delivery{}, known: map[string]*delivery{}}
		if t.dialer == nil {
			t.dialer = &net.Dialer{Timeout: o.Timeout}
		}
		o.CustomDialer = t
		return nil
	}
}

// A tap dials for one nats.Conn, again whenever that reconnects.
type tap struct {
	dialer nats.CustomDialer

	mu      sync.Mutex
	waiting map[string]*delivery // by inbox: the id of its subscription is not known yet
	known   map[string]*delivery // by the id of the subscription
}

// tapOf returns the tap beneath a connection, nil if there is none.
func tapOf(nc *nats.Conn) *tap {
	t, _ := nc.Opts.CustomDialer.(*tap)
	return t
}

// Dial implements nats.CustomDialer.
func (t *tap) Dial(network, address string) (net.Conn, error) {
	nc, err := t.dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return &tapConn{Conn: nc, tap: t, buf: make([]byte, tapBuffer)}, nil
}

// SkipTLSHandshake is what the dialer beneath says of itself.
func (t *tap) SkipTLSHandshake() bool {
	d, ok := t.dialer.(interface{ SkipTLSHandshake() bool })
	return ok && d.SkipTLSHandshake()
}

// A delivery is what the tap takes for one reader: whole frames of one
// subscription, in their order. How much waits here is bounded by what the reader
// has asked the server for.
type delivery struct {
	inbox string
	id    string   // of the subscription
	from  *tapConn // where the id was learned

	filling []byte // frames of the pass that is under way; of the connection's goroutine alone

	mu     sync.Mutex
	frames [][]byte
	lost   bool // frames may have gone another way

	bound  chan struct{} // the id is known
	stray  chan struct{} // a message of the subscription went to nats.go
	signal chan struct{} // there are frames, or it is lost
}

// expect prepares for a reader that is about to subscribe to an inbox. The id
// which nats.go gives the subscription is learned from the first message that the
// reader sends there itself.
func (t *tap) expect(inbox string) *delivery {
	d := &delivery{inbox: inbox, bound: make(chan struct{}), stray: make(chan struct{}, 1), signal: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting[inbox] = d
	return d
}

// forget lets what still comes pass to nats.go.
func (t *tap) forget(d *delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiting, d.inbox)
	if t.known[d.id] == d {
		delete(t.known, d.id)
	}
}

// take returns the frames that came since it was last called. lost tells that
// there may be others, behind them, that it will never return.
func (d *delivery) take() (frames [][]byte, lost bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	frames, d.frames = d.frames, nil
	return frames, d.lost
}

// flush lets the reader have the frames of the pass so far; for the connection's
// goroutine.
func (d *delivery) flush() {
	if d.filling == nil {
		return
	}
	d.mu.Lock()
	d.frames = append(d.frames, d.filling)
	d.mu.Unlock()
	d.filling = nil
	d.wake()
}

func (d *delivery) wake() {
	select {
	case d.signal <- struct{}{}:
	default:
	}
}

func (d *delivery) lose() {
	d.mu.Lock()
	d.lost = true
	d.mu.Unlock()
	d.wake()
}

// passed is nats.go's callback of the subscription.
func (d *delivery) passed(*nats.Msg) {
	select {
	case d.stray <- struct{}{}:
	default:
	}
	d.lose()
}
