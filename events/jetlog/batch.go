package jetlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/tachograph/tachograph/events"
)

// A batch is a group of events on its way to the server under one id.
type batch struct {
	id    string
	items []item

	once     sync.Once
	answered chan struct{} // closed when the fields below are set
	err      error         // why items[stored:] are not known to be stored
	stored   int           // items[:stored] are in the stream
	seq      uint64        // the stream's sequence after them

	outcomes []error // set by mend, one an item; nil: all are stored
}

func (b *batch) answer(stored int, seq uint64, err error) {
	b.once.Do(func() {
		b.stored, b.seq, b.err = stored, seq, err
		close(b.answered)
	})
}

func (b *batch) fail(err error) { b.answer(0, 0, err) }

// wait returns when the batch is answered, or should long have been.
func (b *batch) wait() {
	t := time.NewTimer(answerTimeout)
	defer t.Stop()
	select {
	case <-b.answered:
	case <-t.C:
		b.fail(fmt.Errorf("no answer in %s: %w", answerTimeout, events.ErrUnknown))
	}
}

func (b *batch) isAnswered() bool {
	select {
	case <-b.answered:
		return true
	default:
		return false
	}
}

// Operations of the fast-ingest protocol (nats-server 2.14, FastBatchOp…): the
// reply subject <inbox>.<batch>.<flow>.<gap>.<n>.<operation>.$FI says which
// message of which batch it is; the last one commits the batch, and its answer
// tells how many were stored.
const (
	opStart  = "0"
	opAppend = "1"
	opCommit = "2"
	maxFlow  = "65535" // flow acknowledgements are not needed: a batch is short
)

// sendFast publishes a batch as one fast-ingest batch.
func (c *committer) sendFast(b *batch) error {
	nc := c.l.cfg.Publish
	prefix := c.inbox + "." + b.id + "." + maxFlow + ".fail."
	subject := make([]byte, 0, 256)
	reply := append(make([]byte, 0, 128), prefix...)
	for i := range b.items {
		it, e := &b.items[i], &b.items[i].event
		op := opAppend
		switch i {
		case len(b.items) - 1:
			op = opCommit
		case 0:
			op = opStart
		}
		subject = it.appendSubject(subject[:0])
		reply = strconv.AppendInt(reply[:len(prefix)], int64(i+1), 10)
		reply = append(append(append(reply, '.'), op...), ".$FI"...)
		var err error
		if header := it.headers(); header != nil {
			err = nc.PublishMsg(&nats.Msg{Subject: string(subject), Reply: string(reply), Header: header, Data: e.Payload})
		} else {
			// The client copies both into its buffer before it returns.
			err = nc.PublishRequest(unsafe.String(&subject[0], len(subject)), unsafe.String(&reply[0], len(reply)), e.Payload)
		}
		if err != nil {
			return fmt.Errorf("publish to %s: %w: %w", c.stream, events.ErrUnknown, err)
		}
	}
	return nil
}

// answer takes the server's words on fast-ingest batches.
func (c *committer) answer(msg *nats.Msg) {
	if strings.Contains(string(msg.Data[:min(len(msg.Data), 8)]), `"type"`) {
		return // flow control, or the announcement of what the batch's own answer says as well
	}
	id, _, _ := strings.Cut(msg.Subject[len(c.inbox)+1:], ".")
	c.mu.Lock()
	b := c.byID[id]
	c.mu.Unlock()
	if b == nil {
		return // given up
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Count int                 `json:"count"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		b.fail(fmt.Errorf("answer of %s: %w: %w", c.stream, events.ErrUnknown, err))
		return
	}
	if ack.Error != nil {
		err := refusal(ack.Error)
		if len(b.items) > 1 {
			err = fmt.Errorf("%w: %w: %s", events.ErrUnknown, errOfMany, err)
		}
		b.fail(err)
		return
	}
	var err error
	if ack.Count < len(b.items) {
		err = fmt.Errorf("%s stored %d of %d", c.stream, ack.Count, len(b.items))
	}
	b.answer(min(ack.Count, len(b.items)), ack.Seq, err)
}

// sendAtomic publishes a batch as one atomic batch, for servers that sync it
// as a whole before they answer.
func (c *committer) sendAtomic(b *batch) error {
	msgs := make([]*nats.Msg, len(b.items))
	for i := range b.items {
		it := &b.items[i]
		header := it.headers()
		if header == nil {
			header = nats.Header{}
		}
		msgs[i] = &nats.Msg{Subject: string(it.appendSubject(nil)), Header: header, Data: it.event.Payload}
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	ack, err := jetstreamext.PublishMsgBatch(ctx, c.l.js, msgs)
	var api *jetstream.APIError
	switch {
	case err == nil:
		b.answer(len(b.items), ack.Sequence, nil)
		return nil
	case errors.As(err, &api):
		return refusal(api)
	default:
		return fmt.Errorf("publish to %s: %w: %w", c.stream, events.ErrUnknown, err)
	}
}

// errTorn: not all messages of an atomic batch reached the stream, so it took none.
// That is the fault of none of them, but of one that it takes no longer (see moved).
var errTorn = errors.New("the batch reached the server in part")

// errOfMany: the server refused one message of a fast-ingest batch, or knows the batch
// no longer. What it has stored of the others it does not say, nor which one is at fault.
var errOfMany = errors.New("the batch was refused at one of its messages")

// refusal maps the server's error codes to what a caller can act on.
func refusal(err *jetstream.APIError) error {
	switch err.ErrorCode {
	case 10077, 10023, 10047, 10002: // maximum bytes or messages, storage or account limits exceeded
		return fmt.Errorf("%w: %s", events.ErrFull, err.Description)
	case 10054: // message size exceeds maximum
		return fmt.Errorf("%w: %s", events.ErrTooLarge, err.Description)
	case 10175, 10176: // messages of an atomic batch are missing
		return fmt.Errorf("%w (%d): %s", errTorn, err.ErrorCode, err.Description)
	default:
		return fmt.Errorf("refused by the server (%d): %s", err.ErrorCode, err.Description)
	}
}
