package query

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
)

// pieceBytes is as much of an answer as is read at once; four such pieces are in
// memory at most.
const pieceBytes = 64 << 10

// holdTime is how long the beginning of an answer is held back for more of it to
// come, since what fails by then is an error instead of half an answer.
const holdTime = 500 * time.Millisecond

// exceptionBytes is as much of what the server says in an error as is read.
const exceptionBytes = 64 << 10

// An Answer is what ClickHouse says, piece by piece. It is not safe for
// concurrent use.
type Answer struct {
	ID string // the statement's, in ClickHouse

	client    *Client
	asker     context.Context // ends when nobody waits any more
	timed     context.Context // that, and with the time for it
	cancel    context.CancelFunc
	statement string
	body      io.ReadCloser
	chunks    chan chunk    // of body; see pump
	pumped    chan struct{} // closed when pump has ended
	marker    []byte        // begins an exception within the answer

	buffer   [2 * pieceBytes]byte
	have     int   // bytes of buffer
	given    int   // of which the caller has these
	sent     int64 // bytes in all
	ended    error // what the body ended with
	asked    bool  // the server may be at work
	whole    bool  // the server is done with it
	counted  bool
	released bool
}

// Next returns the next piece, valid until the next call, or io.EOF after a
// whole answer.
//
// Errors: a *problem.Problem when the answer is not whole and what was returned
// so far is not to be used; the asker's context's.
func (a *Answer) Next() ([]byte, error) {
	a.have = copy(a.buffer[:], a.buffer[a.given:a.have])
	a.given = 0
	for {
		n, err := a.ready()
		if err == nil && a.sent+int64(n) > a.client.cfg.Limits.Bytes {
			err = a.client.cfg.Limits.bytes()
		}
		switch {
		case err != nil:
			a.count(err)
			return nil, err
		case n > 0:
			a.given = n
			a.sent += int64(n)
			a.client.outcomes.set(a.ID, Running, a.sent, nil)
			a.client.metrics.bytes.Add(float64(n))
			return a.buffer[:n], nil
		case a.ended != nil:
			a.whole = true
			a.count(nil)
			return nil, io.EOF
		}
		select {
		case c := <-a.chunks:
			a.take(c)
		case <-a.pumped: // the clock or the asker ended it
			a.ended = context.Canceled
			if gone := a.timed.Err(); gone != nil {
				a.ended = gone
			}
		}
	}
}

// A chunk is what one read of the body gave; data is valid until the next but
// one is taken.
type chunk struct {
	data []byte
	err  error
}

// pump reads the body, a chunk ahead of who takes them, until it ends or ctx
// does. A read can be waited for only so long that way.
func (a *Answer) pump(ctx context.Context) {
	defer close(a.pumped)
	var buffers [2][pieceBytes]byte
	for i := 0; ; i = 1 - i {
		n, err := a.body.Read(buffers[i][:])
		select {
		case a.chunks <- chunk{buffers[i][:n], err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// take adds a chunk to the buffer, of which at most half is used by then.
func (a *Answer) take(c chunk) {
	a.have += copy(a.buffer[a.have:], c.data)
	a.ended = c.err
}

// prime begins to read, and holds back what comes first until it is a piece, the
// whole answer, or holdTime old.
func (a *Answer) prime(ctx context.Context) error {
	a.chunks, a.pumped = make(chan chunk), make(chan struct{})
	go a.pump(ctx)
	var old <-chan time.Time
	for a.have < pieceBytes && a.ended == nil {
		select {
		case c := <-a.chunks:
			a.take(c)
			if old == nil {
				old = time.After(holdTime)
			}
			continue
		case <-old:
		case <-ctx.Done():
			return a.why(ctx.Err())
		}
		break
	}
	n, err := a.ready()
	if err == nil && int64(n) > a.client.cfg.Limits.Bytes {
		err = a.client.cfg.Limits.bytes()
	}
	return err
}

// ready returns how much of the buffer can be given away: not the end that may
// be the beginning of a marker.
func (a *Answer) ready() (int, error) {
	if at := bytes.Index(a.buffer[:a.have], a.marker); at >= 0 {
		return 0, a.exception(at + len(a.marker))
	}
	switch {
	case a.ended == nil:
		return max(0, a.have-len(a.marker)+1), nil
	case errors.Is(a.ended, io.EOF) && !errors.Is(a.ended, io.ErrUnexpectedEOF):
		return a.have, nil
	}
	return 0, a.why(a.ended)
}

// exception makes an error of the exception that begins at the place.
func (a *Answer) exception(at int) error {
	text := bytes.Clone(a.buffer[at:a.have])
	for a.ended == nil && len(text) < exceptionBytes { // the rest of it
		select {
		case c := <-a.chunks:
			text, a.ended = append(text, c.data...), c.err
		case <-a.pumped:
			a.ended = io.EOF
		}
	}
	a.whole = true
	return a.refusal(string(text))
}

// why tells what ended an answer that is not whole: the asker, the clock, or
// the server.
func (a *Answer) why(err error) error {
	if gone := a.asker.Err(); gone != nil {
		return gone
	}
	var p *problem.Problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, context.DeadlineExceeded):
		return a.client.cfg.Limits.time()
	}
	a.client.cfg.Logger.Warn("ClickHouse does not answer", "query", a.ID, "error", err)
	return problem.New(problem.Unavailable, "query: ClickHouse does not answer at the moment", nil)
}

func (a *Answer) count(err error) {
	if !a.counted {
		a.counted = true
		a.client.metrics.count(err)
		var p *problem.Problem
		switch {
		case err == nil:
			a.client.outcomes.set(a.ID, Whole, a.sent, nil)
		case errors.As(err, &p):
			a.client.outcomes.set(a.ID, Failed, a.sent, p)
		default:
			a.client.outcomes.set(a.ID, Gone, a.sent, nil)
		}
	}
}

// Close ends the statement if it is at work and gives its place free. It
// returns when the server has ended it.
func (a *Answer) Close() {
	if a.released {
		return
	}
	a.released = true
	a.count(context.Canceled)
	a.cancel()
	if a.body != nil {
		_ = a.body.Close() // it was only read
	}
	if a.pumped != nil {
		<-a.pumped
	}
	if a.asked && !a.whole {
		a.client.end(a.ID)
	}
	a.client.metrics.running.Dec()
	<-a.client.places
}
