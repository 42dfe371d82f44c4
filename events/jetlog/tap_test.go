package jetlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// follow reads n events from the beginning and compares them with what was sent.
func follow(t *testing.T, l *Log, want []events.Event) {
	t.Helper()
	n := 0
	for e, err := range l.Follow(t.Context(), 0, events.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		w := &want[n]
		if n++; e.Position.Seq != uint64(n) || e.Stream != w.Stream || e.Type != w.Type || e.ID != w.ID || e.Schema != w.Schema || !bytes.Equal(e.Payload, w.Payload) {
			t.Fatalf("event %d is %s %+v %s %s, sent was %+v %s %s", n, e.Position, e.Stream, e.Type, e.ID, w.Stream, w.Type, w.ID)
		}
		if n == len(want) {
			return
		}
	}
	t.Fatalf("%d events of %d came", n, len(want))
}

// tappable are events of all shapes that telemetry has: ids of their own, which
// stand in headers, payloads that fit into no buffer and such as look like frames.
func tappable(n int) []events.Event {
	all := make([]events.Event, n)
	for i := range all {
		e := logtest.Telemetry(fmt.Sprint("car-", i%7, " Ü"), i)
		switch i % 50 {
		case 1:
			e.ID = events.UniqueID()
		case 2:
			e.Payload = bytes.Repeat([]byte("x\r\nMSG "), 20_000+i)
			e.ID = events.DeriveID(e.Stream.ID, e.Type, e.Payload)
		case 3:
			e.Payload, e.ID = nil, events.UniqueID()
		case 4:
			e.Payload = []byte("\r\nHMSG in.1.a.b.1 1 12 13\r\nPING\r\n")
			e.ID = events.DeriveID(e.Stream.ID, e.Type, e.Payload)
		case 5:
			e.Type = "other"
			e.ID = events.DeriveID(e.Stream.ID, e.Type, e.Payload)
		}
		all[i] = e
	}
	return all
}

// isTapped tells whether Follow reads l beneath nats.go.
func isTapped(t *testing.T, l *Log) bool {
	t.Helper()
	r := &tappedReader{l: l, d: decoder{epoch: 1}}
	err := r.run(t.Context(), 1, func(events.Event, error) bool { return false })
	if err != nil && err != errUntapped {
		t.Fatal(err)
	}
	return err == nil
}

// TestTapped reads the same log over connections of all kinds, several readers of
// each at once.
func TestTapped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate, roots := selfSigned(t)
	opts := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true, MaxPayload: 8 << 20,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}, AllowNonTLS: true}
	opts.Websocket.Host, opts.Websocket.Port, opts.Websocket.NoTLS = "127.0.0.1", -1, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	plain := "nats://" + s.Addr().String()
	publish, err := nats.Connect(plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publish.Close)
	l := open(t, Config{Publish: publish, Durability: OS})
	want := tappable(6000)
	logtest.EnqueueAll(t, l, want)

	dialer := &countingDialer{}
	for _, way := range []struct {
		name   string
		url    string
		opts   []nats.Option
		tapped bool
	}{
		{"tcp", plain, nil, true},
		{"tcp by a dialer", plain, []nats.Option{nats.SetCustomDialer(dialer)}, true},
		{"in process", plain, []nats.Option{nats.InProcessServer(s)}, false},
		{"tls", s.ClientURL(), []nats.Option{nats.Secure(&tls.Config{RootCAs: roots, ServerName: "localhost"})}, false},
		{"web socket", s.WebsocketURL(), nil, false},
		{"no echo", plain, []nats.Option{nats.NoEcho()}, false},
	} {
		t.Run(way.name, func(t *testing.T) {
			nc, err := nats.Connect(way.url, append(way.opts, nats.ReconnectBufSize(-1), Tapped())...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			l := open(t, Config{Publish: publish, Read: nc, Durability: OS})
			if got := isTapped(t, l); got != way.tapped {
				t.Errorf("tapped: %t", got)
			}
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { follow(t, l, want) })
			}
			all.Wait()
		})
	}
	if dialer.n.Load() == 0 {
		t.Error("the caller's dialer was not used")
	}
}

// TestTappedAnew: a reader goes on, without a gap or a repeat, when its consumer is
// removed, its connection is cut, or the connection goes over to what cannot be read.
func TestTappedAnew(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), false)
	nc := connect(t, s, Tapped())
	l := open(t, Config{Publish: connect(t, s), Read: nc, Durability: OS})
	want := tappable(9_000)
	logtest.EnqueueAll(t, l, want[:7_000])
	stream, err := l.js.Stream(t.Context(), streamName(0))
	if err != nil {
		t.Fatal(err)
	}
	disturb := map[uint64]func(){
		1000: func() {
			for name := range stream.ConsumerNames(t.Context()).Name() {
				if err := stream.DeleteConsumer(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		},
		3000: func() {
			id, err := nc.GetClientID()
			if err != nil {
				t.Error(err)
			}
			if err := s.DisconnectClientByID(id); err != nil {
				t.Error(err)
			}
		},
		5000: func() {
			tp := tapOf(nc)
			tp.mu.Lock()
			defer tp.mu.Unlock()
			for _, d := range tp.known {
				d.lose()
			}
		},
		7000: func() { logtest.EnqueueAll(t, l, want[7_000:]) },
	}
	n := uint64(0)
	for e, err := range l.Follow(t.Context(), 0, events.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; e.Position.Seq != n || !bytes.Equal(e.Payload, want[n-1].Payload) {
			t.Fatalf("event %d came as number %d", e.Position.Seq, n)
		}
		if do := disturb[n]; do != nil {
			do()
		}
		if int(n) == len(want) {
			break
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Consumers <= 1 { // that of the connection which was cut ends by itself
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d consumers are left", info.State.Consumers)
		}
	}
}

// TestTappedClosed: who closes the connection ends its readers, with an error.
func TestTappedClosed(t *testing.T) {
	s := startServer(t, t.TempDir(), false)
	nc := connect(t, s, Tapped())
	l := open(t, Config{Publish: connect(t, s), Read: nc, Durability: OS})
	logtest.EnqueueAll(t, l, tappable(10))
	n := 0
	for _, err := range l.Follow(t.Context(), 0, events.Cursor{}) {
		if err != nil {
			if !errors.Is(err, nats.ErrConnectionClosed) {
				t.Error(err)
			}
			return
		}
		if n++; n == 10 {
			nc.Close()
		}
	}
	t.Error("the reader ended without an error")
}

// A script is a connection that is read in pieces of given sizes.
type script struct {
	net.Conn
	rest  []byte
	sizes []byte
	n     int
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	size := len(p)
	if len(s.sizes) > 0 {
		size = 1 + int(s.sizes[s.n%len(s.sizes)])
		s.n++
	}
	n := copy(p[:min(size, len(p))], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// tapAll passes a stream of bytes through a tap that has a reader of subscription
// 7, and one that waits for the inbox "in".
func tapAll(stream, sizes []byte, most int) (passed, taken, learned []byte, lost bool) {
	t := &tap{waiting: map[string]*delivery{}, known: map[string]*delivery{}}
	c := &tapConn{Conn: &script{rest: stream, sizes: sizes}, tap: t, buf: make([]byte, 256)}
	seven, in := t.expect("seven"), t.expect("in")
	delete(t.waiting, "seven")
	seven.id, seven.from, t.known["7"] = "7", c, seven
	p := make([]byte, most)
	for {
		n, err := c.Read(p)
		passed = append(passed, p[:n]...)
		if err != nil {
			break
		}
	}
	frames, lost := seven.take()
	others, _ := in.take()
	return passed, slices.Concat(frames...), slices.Concat(others...), lost
}

// tapSlowly is what tapAll should do, from the whole stream at once. What is not
// whole at its end is left out of all.
func tapSlowly(stream []byte) (passed, taken, learned []byte, lost bool) {
	in := ""
	for rest := string(stream); rest != ""; {
		if !strings.Contains("IMHP+-imhp", rest[:1]) {
			return append(passed, rest...), taken, learned, true
		}
		line, _, whole := strings.Cut(rest, "\n")
		if !whole && len(rest) >= 256 || whole && len(line) >= 256 {
			return append(passed, rest...), taken, learned, true
		}
		if !whole {
			return passed, taken, learned, false
		}
		words := strings.FieldsFunc(strings.TrimSuffix(line, "\r"), func(r rune) bool { return r == ' ' || r == '\t' })
		sizes := 0
		switch strings.ToUpper(strings.FieldsFunc(line+" ", func(r rune) bool { return r == ' ' || r == '\t' })[0]) {
		case "MSG":
			sizes = 1
		case "HMSG":
			sizes = 2
		}
		n := len(line) + 1
		if sizes > 0 {
			var numbers []int
			for _, w := range words[max(1, len(words)-sizes):] {
				if number, err := strconv.ParseUint(w, 10, 32); err == nil && len(w) <= 9 && number <= maxFrame {
					numbers = append(numbers, int(number))
				}
			}
			names := len(words) - 1 - sizes
			if !strings.HasSuffix(line, "\r") || len(numbers) != sizes || names < 2 || names > 3 || numbers[0] > numbers[sizes-1] {
				return append(passed, rest...), taken, learned, true
			}
			n += numbers[sizes-1] + 2
			part := rest[:min(n, len(rest))]
			switch sid := words[2]; {
			case sid == "7":
				if len(rest) >= n {
					taken = append(taken, part...)
				}
			case in == "" && words[1] == "in" && numbers[sizes-1] == 0:
				if len(rest) >= n {
					in = sid
				}
			case sid == in:
				if len(rest) >= n {
					learned = append(learned, part...)
				}
			default:
				passed = append(passed, part...)
			}
		} else if strings.ContainsAny(rest[:1], "MHmh") {
			return append(passed, rest...), taken, learned, true
		} else {
			passed = append(passed, rest[:n]...)
		}
		rest = rest[min(n, len(rest)):]
	}
	return passed, taken, learned, false
}

// FuzzTap holds the tap against slow code, whatever comes over the socket and in
// whatever pieces.
func FuzzTap(f *testing.F) {
	for _, stream := range []string{
		"INFO {}\r\nPING\r\nMSG in.1.a.b.1 7 $JS.ACK.x 5\r\nhello\r\n+OK\r\n",
		"MSG in 12 0\r\n\r\nMSG x 12 3\r\nabc\r\nMSG x 12 r 300\r\n" + strings.Repeat("z", 300) + "\r\nPONG\r\n",
		"HMSG s 7 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\nMSG s 1 2\r\nhi\r\n",
		"MSG s 7 70000000\r\n", "MSG s 7 99999999999999999999\r\n", "HMSG s 7 9 3\r\n", "MSG 7\r\n", "MSG\r\n", "HTTP/1.1 101 Switching\r\n\r\n\x82\x05PING\r\n",
		"\x16\x03\x01binary", "msg s\t7  1\r\nx\r\n", "MSG s 7 -1\r\n", "-ERR 'x'\r\n", strings.Repeat("I", 300), "M", "P\nMSG a 7 1\nx\r\n",
	} {
		f.Add([]byte(stream), []byte{0, 30, 1}, uint16(7))
		f.Add([]byte(stream), []byte{}, uint16(1000))
	}
	f.Fuzz(func(t *testing.T, stream, sizes []byte, most uint16) {
		passed, taken, learned, lost := tapAll(stream, sizes, 1+int(most))
		wantPassed, wantTaken, wantLearned, wantLost := tapSlowly(stream)
		if !bytes.Equal(passed, wantPassed) || !bytes.Equal(taken, wantTaken) || !bytes.Equal(learned, wantLearned) || lost != wantLost {
			t.Errorf("of %q\npassed  %q\nnot     %q\ntaken   %q\nnot     %q\nlearned %q\nnot     %q\nlost %t, not %t", stream, passed, wantPassed, taken, wantTaken, learned, wantLearned, lost, wantLost)
		}
		r := &tappedReader{}
		_ = r.read(slices.Clone(taken), func(events.Event, error) bool { return true }) // whatever it holds
	})
}

// FuzzHeaders holds what is read of headers against nats.go.
func FuzzHeaders(f *testing.F) {
	for _, h := range []string{
		"NATS/1.0\r\nId: abc\r\nTy:added\r\nSv: \t7\r\nAt: x\r\n\r\n", "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n",
		"NATS/1.0 100\r\n\r\n", "NATS/1.0\r\nId: a\r\nId: b\r\n: x\r\nid: c\r\n\r\nId: d\r\n", "NATS/1.0 4\r\n\r\n", "", "NATS/1.0\nId:x\n\n", "NATS/1.0\r\nId\r\n\r\n",
	} {
		f.Add([]byte(h))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, err := nats.DecodeHeadersMsg(b)
		status, ok := statusOf(b)
		got := rawEnvelope(b)
		if err != nil {
			return // nats-server stores no such thing
		}
		if got != envelopeOf(want) {
			t.Errorf("%q: %+v, nats.go reads %+v", b, got, envelopeOf(want))
		}
		if inline := want["Status"]; ok && (len(inline) == 0 || status[:3] != inline[len(inline)-1]) {
			t.Errorf("%q: status %q, nats.go reads %q", b, status, inline)
		}
	})
}

// TestTappedAllocations: an event costs its id, no more, and a share of the memory
// that its frame came in.
func TestTappedAllocations(t *testing.T) {
	const n = 1000
	var frames []byte
	for i := range n {
		e := logtest.Telemetry(fmt.Sprint("car-", i%100), i)
		frames = fmt.Appendf(frames, "MSG %s 7 $JS.ACK.TELEMETRY_0.name.1.%d.%[2]d.1700000000000000005.99 %[3]d\r\n%[4]s\r\n", e.Subject(), i+1, len(e.Payload), e.Payload)
	}
	t.Run("read", func(t *testing.T) {
		allocs := testing.AllocsPerRun(20, func() {
			r, read := &tappedReader{}, 0
			if err := r.read(frames, func(events.Event, error) bool { read++; return true }); err != nil || read != n {
				t.Fatalf("%d events: %v", read, err)
			}
		})
		if allocs > n+10 {
			t.Errorf("%v allocations for %d events", allocs, n)
		}
	})
	t.Run("take", func(t *testing.T) {
		tp := &tap{waiting: map[string]*delivery{}, known: map[string]*delivery{}}
		c := &tapConn{tap: tp, buf: make([]byte, tapBuffer)}
		d := &delivery{id: "7", from: c, signal: make(chan struct{}, 1)}
		tp.known["7"] = d
		p := make([]byte, 100)
		allocs := testing.AllocsPerRun(20, func() {
			c.Conn = &script{rest: frames}
			if _, err := c.Read(p); err != io.EOF {
				t.Fatal(err)
			}
			if all, lost := d.take(); len(slices.Concat(all...)) != len(frames) || lost {
				t.Fatal("not all was taken")
			}
		})
		if most := float64(3*len(frames)/tapBuffer + 12); allocs > most {
			t.Errorf("%v allocations for %d bytes, at most %v expected", allocs, len(frames), most)
		}
	})
}

type countingDialer struct{ n atomic.Int32 }

func (d *countingDialer) Dial(network, address string) (net.Conn, error) {
	d.n.Add(1)
	return net.Dial(network, address)
}

// selfSigned makes a certificate of localhost.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
