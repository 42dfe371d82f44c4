package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
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
	Form     Form
	Window   int           // unacknowledged messages of a connection
	Messages int           // ends after so many in all
	Limit    time.Duration // or so long
	Start    time.Time     // device time of the first messages; now by default
	Rate     float64       // messages a second that fall due, answered or not, stamped with their time; 0: as many as are acknowledged
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

// A Crowd is a flood's devices, connected and silent.
type Crowd struct {
	flood   Flood
	devices []*device
	loop    *loop
}

// Connect connects all devices. Its cost is not a publish's, so it stands apart.
func (f Flood) Connect(ctx context.Context) (_ *Crowd, err error) {
	if f.Window < 1 || f.Window > 1<<10 || len(f.Devices) == 0 {
		return nil, fmt.Errorf("flood: %d devices with window %d", len(f.Devices), f.Window)
	}
	if f.Start.IsZero() {
		f.Start = time.Now()
	}
	c := &Crowd{flood: f}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	for _, id := range f.Devices {
		user, password := f.Login(id)
		file, err := socket(ctx, f.Addr, id, user, password)
		if err != nil {
			return nil, fmt.Errorf("flood: device %s: %w", id, err)
		}
		c.devices = append(c.devices, &device{file: file, fd: int(file.Fd()), ring: newRing(f.Form, f.Topic(id), f.Start, f.Window), window: f.Window})
		c.devices[len(c.devices)-1].ring.live = f.Rate > 0
	}
	if c.loop, err = newLoop(c.devices, f.Messages, f.Rate); err != nil {
		return nil, fmt.Errorf("flood: %w", err)
	}
	return c, nil
}

// Run lets all devices loose together and waits for the last acknowledgement.
// One that is missing or out of order is an error. A crowd runs once.
func (c *Crowd) Run(ctx context.Context) (Result, error) {
	elapsed, err := c.loop.run(ctx, c.flood.Limit)
	r := Result{Elapsed: elapsed}
	for _, d := range c.devices {
		r.Acknowledged += d.acked
	}
	if err != nil {
		err = fmt.Errorf("flood: %w", err)
	}
	return r, err
}

// Close disconnects.
func (c *Crowd) Close() {
	for _, d := range c.devices {
		d.close()
	}
	if c.loop != nil {
		c.loop.close()
	}
}

// Run connects, publishes and disconnects.
func (f Flood) Run(ctx context.Context) (Result, error) {
	c, err := f.Connect(ctx)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	return c.Run(ctx)
}

// A device is one connection of a flood. Its socket blocks: it is read when it
// has something, and a window fits into its buffer.
type device struct {
	file     *os.File
	fd       int
	ring     *ring
	window   int
	inFlight int
	acked    int
	expected uint16 // packet id of the newest acknowledgement
	partial  int    // bytes of a PUBACK that came in part
	in       [256]byte
}

// publish sends the next n messages.
func (d *device) publish(n int) error {
	for b := d.ring.next(n); len(b) > 0; {
		written, err := syscall.Write(d.fd, b)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("publish", err)
		}
		b = b[written:]
	}
	d.inFlight += n
	return nil
}

// acknowledgements reads what has come.
func (d *device) acknowledgements() error {
	n, err := syscall.Read(d.fd, d.in[d.partial:])
	if errors.Is(err, syscall.EINTR) {
		return nil
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
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

func (d *device) close() {
	_, _ = d.file.WriteString("\xe0\x00") // DISCONNECT; the connection ends either way
	d.file.Close()
}

// socket connects a device and returns its socket.
func socket(ctx context.Context, addr, id, user, password string) (*os.File, error) {
	c, err := Dial(ctx, addr, id, user, password)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*net.TCPConn).File()
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
