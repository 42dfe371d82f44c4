package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Flood is as many QoS 1 publishes as a server acknowledges, from many
// devices, each on its own connection (MQTT 3.1.1, which every server speaks).
// It costs little CPU, for the server shares the machine with it.
type Flood struct {
	Addr     string
	Devices  []string
	Login    func(device string) (user, password string)
	Topic    func(device string) string
	Window   int           // unacknowledged messages of a connection
	Messages int           // ends after so many in all
	Limit    time.Duration // or so long
	Start    time.Time     // device time of the first messages; now by default
}

// A Result is what came of a flood.
type Result struct {
	Acknowledged int
	Elapsed      time.Duration // first publish to last acknowledgement
}

// Rate is in messages a second.
func (r Result) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Acknowledged) / r.Elapsed.Seconds()
}

// Acknowledgements that are missing for so long after the last publish are lost.
const drain = 15 * time.Second

// Run connects all devices, lets them loose together and waits for the last
// acknowledgement. An acknowledgement that is missing or out of order is an error.
func (f Flood) Run(ctx context.Context) (Result, error) {
	if f.Window < 1 || f.Window > 1<<14 || len(f.Devices) == 0 {
		return Result{}, fmt.Errorf("flood: %d devices with window %d", len(f.Devices), f.Window)
	}
	if f.Start.IsZero() {
		f.Start = time.Now()
	}
	conns := make([]net.Conn, 0, len(f.Devices))
	defer func() {
		for _, c := range conns {
			_, _ = c.Write([]byte{0xe0, 0}) // DISCONNECT; the connection ends either way
			c.Close()
		}
	}()
	for _, d := range f.Devices {
		user, password := f.Login(d)
		c, err := Dial(ctx, f.Addr, d, user, password)
		if err != nil {
			return Result{}, fmt.Errorf("flood: device %s: %w", d, err)
		}
		conns = append(conns, c)
	}
	var (
		left    atomic.Int64 // messages to publish
		stopped atomic.Bool
		acked   atomic.Int64
		wg      sync.WaitGroup
		begin   = make(chan struct{})
		errs    = make([]error, len(conns))
	)
	left.Store(int64(f.Messages))
	stop := func() {
		stopped.Store(true)
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(drain)) // fails on a closed connection only
		}
	}
	for i, c := range conns {
		d := &device{conn: c, ring: newRing(f.Topic(f.Devices[i]), f.Start, f.Window), window: f.Window}
		wg.Go(func() {
			<-begin
			errs[i] = d.run(&left, &stopped)
			acked.Add(int64(d.acked))
		})
	}
	began := time.Now()
	limit := time.AfterFunc(f.Limit, stop)
	defer limit.Stop()
	cancelled := context.AfterFunc(ctx, stop)
	defer cancelled()
	close(begin)
	wg.Wait()
	r := Result{Acknowledged: int(acked.Load()), Elapsed: time.Since(began)}
	return r, errors.Join(ctx.Err(), errors.Join(errs...))
}

// A device publishes half a window at a time, so that neither end pays a
// system call for each message.
type device struct {
	conn     net.Conn
	ring     *ring
	window   int
	inFlight int
	acked    int
	expected uint16 // packet id of the newest acknowledgement
	partial  int    // bytes of a PUBACK that came in part
	in       [4096]byte
}

func (d *device) run(left *atomic.Int64, stopped *atomic.Bool) error {
	for {
		if free := d.window - d.inFlight; free*2 >= d.window && !stopped.Load() {
			n := free
			if after := left.Add(int64(-n)); after < 0 {
				n = max(0, n+int(after))
			}
			if n > 0 {
				if _, err := d.conn.Write(d.ring.next(n)); err != nil {
					return fmt.Errorf("publish: %w", err)
				}
				d.inFlight += n
			}
		}
		if d.inFlight == 0 {
			return nil
		}
		if err := d.acknowledgements(); err != nil {
			return err
		}
	}
}

func (d *device) acknowledgements() error {
	n, err := d.conn.Read(d.in[d.partial:])
	if err != nil {
		return fmt.Errorf("%d messages without acknowledgement: %w", d.inFlight, err)
	}
	b := d.in[:d.partial+n]
	for ; len(b) >= 4; b = b[4:] {
		d.expected = follow(d.expected)
		if b[0] != 0x40 || b[1] != 2 || binary.BigEndian.Uint16(b[2:]) != d.expected || d.inFlight == 0 {
			return fmt.Errorf("% x is not the PUBACK of packet %d", b[:4], d.expected)
		}
		d.inFlight--
		d.acked++
	}
	d.partial = copy(d.in[:], b)
	return nil
}

// Dial connects a device with MQTT 3.1.1, clean session, no keep-alive.
func Dial(ctx context.Context, addr, id, user, password string) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(drain)) // fails on a closed connection only
	if err := handshake(c, id, user, password); err != nil {
		c.Close()
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	return c, nil
}

func handshake(c io.ReadWriter, id, user, password string) error {
	body := []byte("\x00\x04MQTT\x04\x02\x00\x00")
	fields := []string{id}
	if user != "" {
		body[7] |= 0xc0
		fields = append(fields, user, password)
	}
	for _, f := range fields {
		body = binary.BigEndian.AppendUint16(body, uint16(len(f)))
		body = append(body, f...)
	}
	packet := append(binary.AppendUvarint([]byte{0x10}, uint64(len(body))), body...)
	if _, err := c.Write(packet); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	var answer [4]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if answer[0] != 0x20 || answer[3] != 0 {
		return fmt.Errorf("connect: refused with % x", answer)
	}
	return nil
}
