package fault

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// What a Proxy does to the connections through it.
type ailment int

const (
	healthy     ailment = iota
	loseAnswers         // the server did it, the client never hears of it
	cutRequests         // a request breaks off somewhere
	holdAll             // what is sent arrives later, whatever became of its sender
)

// A Proxy stands between the writers and ClickHouse.
type Proxy struct {
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	cond   *sync.Cond
	target string
	now    ailment
	random *rand.Rand
	open   map[net.Conn]bool
	closed bool
}

// NewProxy listens on a free port of loopback.
func NewProxy(seed uint64) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, random: rand.New(rand.NewPCG(seed, 3)), open: map[net.Conn]bool{}}
	p.cond = sync.NewCond(&p.mu)
	p.done.Go(p.accept)
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Target says where connections go from now on.
func (p *Proxy) Target(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Become says what happens to connections from now on; those that are held go
// on when it is no longer holdAll.
func (p *Proxy) Become(a ailment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = a
	p.cond.Broadcast()
}

// Close ends all connections and waits for them.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.open {
		c.Close()
	}
	p.cond.Broadcast()
	p.mu.Unlock()
	p.listener.Close()
	p.done.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.done.Go(func() { p.serve(client) })
	}
}

// track remembers a connection so that Close ends it; it closes one that comes
// too late.
func (p *Proxy) track(c net.Conn) (forget func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
	}
	p.open[c] = true
	return func() {
		c.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, c)
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.track(client)()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return // as if nobody listened
	}
	defer p.track(server)()
	requests := make(chan []byte, 1<<12) // of at most 32 KiB: what a dead sender has sent is sent on
	var both sync.WaitGroup
	both.Go(func() { read(client, requests) })
	both.Go(func() {
		p.pass(requests, server)
		// The answer to what is complete is waited for even if nobody hears it.
		_ = server.SetReadDeadline(time.Now().Add(30 * time.Second))
	})
	both.Go(func() {
		defer client.Close()
		p.answer(server, client)
	})
	both.Wait()
}

func read(from net.Conn, into chan<- []byte) {
	defer close(into)
	for {
		b := make([]byte, 32<<10)
		n, err := from.Read(b)
		if n > 0 {
			into <- b[:n]
		}
		if err != nil {
			return
		}
	}
}

// pass sends on what the client sent, later or not at all.
func (p *Proxy) pass(requests <-chan []byte, server net.Conn) {
	broken := false
	for b := range requests {
		if broken {
			continue // so that the reader ends
		}
		p.mu.Lock()
		for p.now == holdAll && !p.closed {
			p.cond.Wait()
		}
		cut := p.now == cutRequests && p.random.IntN(3) == 0
		if cut {
			b = b[:p.random.IntN(len(b))]
		}
		p.mu.Unlock()
		if _, err := server.Write(b); err != nil || cut {
			server.Close()
			broken = true
		}
	}
}

// answer sends back what the server says, or nothing.
func (p *Proxy) answer(server, client net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := server.Read(b)
		if n > 0 {
			p.mu.Lock()
			lose := p.now == loseAnswers && p.random.IntN(2) == 0
			p.mu.Unlock()
			if lose {
				return
			}
			if _, err := client.Write(b[:n]); err != nil {
				_, _ = io.Copy(io.Discard, server) // until the deadline that pass sets
				return
			}
		}
		if err != nil {
			return
		}
	}
}
