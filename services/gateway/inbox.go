package gateway

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/tachograph/tachograph/services/gateway/packet"
)

// errKeepAlive tells that a client was silent for too long, errStalled that it
// did not finish a packet.
var (
	errKeepAlive = errors.New("nothing heard within one and a half times the keep alive")
	errStalled   = errors.New("a packet was begun and not finished in time")
)

// An inbox is what a connection has sent and nobody has handled. It grows with
// what has arrived, never with what was announced.
type inbox struct {
	nc      net.Conn
	buf     []byte
	r, w    int
	silence time.Duration // 1.5 times the keep alive; 0 is for ever
	stall   time.Duration
	heard   time.Time // when a whole packet last came
	begun   time.Time // when the present packet did; zero between packets
	until   time.Time // when all this must have come, whatever else; zero after CONNECT
	due     time.Time // the deadline that is set
}

// next returns the first packet; its body is valid until the next call.
func (in *inbox) next(limit int, stopped func() bool) (packet.Frame, error) {
	for {
		f, n, want, err := packet.Next(in.buf[in.r:in.w], limit)
		if err != nil {
			return f, err
		}
		if n > 0 {
			in.r += n
			in.begun = time.Time{}
			return f, nil
		}
		if err := in.fill(want, stopped); err != nil {
			return f, err
		}
	}
}

func (in *inbox) fill(want int, stopped func() bool) error {
	if in.r > 0 {
		copy(in.buf, in.buf[in.r:in.w])
		in.r, in.w = 0, in.w-in.r
	}
	switch {
	case in.w == 0 && cap(in.buf) > 16*readBufferBytes, in.buf == nil:
		in.buf = make([]byte, readBufferBytes)
	case in.w == len(in.buf) || want > len(in.buf) && in.w > len(in.buf)/2:
		grown := make([]byte, min(2*len(in.buf), max(want, len(in.buf)+readBufferBytes)))
		copy(grown, in.buf[:in.w])
		in.buf = grown
	}
	if in.w > 0 && in.begun.IsZero() {
		in.begun = in.heard
	}
	for {
		if err := in.await(want); err != nil {
			return err
		}
		if stopped() {
			return net.ErrClosed
		}
		n, err := in.nc.Read(in.buf[in.w:])
		if n > 0 {
			in.heard = time.Now()
			if in.w == 0 {
				in.begun = in.heard
			}
			in.w += n
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// await sets the deadline of the next read, or tells that it has passed. Setting
// it costs, so it is moved by no less than a quarter second: it may pass too
// early, and is then set again.
func (in *inbox) await(want int) error {
	now := time.Now()
	var due time.Time
	late := errKeepAlive
	switch {
	case !in.until.IsZero():
		due, late = in.until, errStalled
	case in.w > 0:
		due, late = in.begun.Add(in.stall+time.Duration(want/1024)*time.Second), errStalled
	case in.silence > 0:
		due = in.heard.Add(in.silence)
	}
	switch {
	case due.IsZero() && in.due.IsZero():
		return nil
	case !due.IsZero() && !now.Before(due):
		return late
	case !due.IsZero() && now.Before(in.due) && due.Sub(in.due).Abs() < 250*time.Millisecond:
		return nil
	}
	in.due = due
	return in.nc.SetReadDeadline(due)
}
