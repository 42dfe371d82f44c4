package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/gateway"
)

// What may stand in an answer beside its result, in bytes; a longer text is cut.
const (
	maxCode   = 64
	maxReason = 1024
)

// Take takes in a device's answer. It implements gateway.Service.
func (s *Commands) Take(_ context.Context, r gateway.Request, done func(error)) {
	refuse := func(label string, reason gateway.Reason, err error) {
		s.metrics.refused.WithLabelValues(label).Inc()
		done(&gateway.Refusal{Reason: reason, Err: err})
	}
	if err := possible(r.Route.Name); err != nil {
		refuse("no_command", gateway.Unasked, err)
		return
	}
	if len(r.Payload) > s.limits.Bytes {
		refuse("too_large", gateway.BadAnswer, fmt.Errorf("answer to command %.64s: %d bytes, at most %d are taken", r.Route.Name, len(r.Payload), s.limits.Bytes))
		return
	}
	a, err := ParseAnswer(r.Payload)
	if err != nil {
		refuse("malformed", gateway.BadAnswer, fmt.Errorf("answer to command %.64s: %w", r.Route.Name, err))
		return
	}
	s.put(key{r.Device, r.Route.Name}, &task{
		decide: func(c *command.Command, at int64) (command.Fact, error) {
			f, err := c.Answer(a, at)
			if len(c.History) >= s.limits.Steps && !a.State.Final() && f.Type != "" {
				return command.Fact{}, fmt.Errorf("command %s to %s: %w", c.Order.ID, c.Order.Device, ErrTooLong)
			}
			return f, err
		},
		done: func(_ View, err error) {
			switch {
			case err == nil:
				done(nil)
			case errors.Is(err, command.ErrNotAnAnswer):
				refuse("not_an_answer", gateway.BadAnswer, err)
			case errors.Is(err, command.ErrNoCommand): // perhaps another device's: ids are a device's own
				refuse("no_command", gateway.Unasked, err)
			case errors.Is(err, command.ErrNotSent):
				refuse("not_sent", gateway.Unasked, err)
			case errors.Is(err, ErrTooLong):
				refuse("too_many_steps", gateway.Unasked, err)
			case errors.Is(err, command.ErrFinal):
				refuse("final", gateway.Unasked, err)
			case errors.Is(err, command.ErrBackward):
				refuse("backward", gateway.Unasked, err)
			default:
				done(err) // the log's: the device keeps the answer and sends it again
			}
		},
	})
}

// ParseAnswer reads what a device reports about a command, as JSON
//
//	{"state":"succeeded","code":"","reason":"","result":{…}}
//
// or as the protobuf message
//
//	message Answer { string state = 1; string code = 2; string reason = 3; bytes result = 4; } // result is JSON
//
// Fields that are not known are passed over. Which states there are is for the
// command to say.
func ParseAnswer(payload []byte) (command.Answer, error) {
	var a command.Answer
	var err error
	if first := bytes.TrimLeft(payload, " \t\r\n"); len(first) > 0 && first[0] == '{' {
		var says struct {
			State  command.State   `json:"state"`
			Code   string          `json:"code"`
			Reason string          `json:"reason"`
			Result json.RawMessage `json:"result"`
		}
		err = json.Unmarshal(payload, &says)
		a = command.Answer(says)
		if string(a.Result) == "null" {
			a.Result = nil
		}
	} else {
		a, err = parseProto(payload)
	}
	switch {
	case err != nil:
		return command.Answer{}, fmt.Errorf("is neither JSON nor the message Answer: %w", err)
	case !utf8.Valid(a.Result), !utf8.ValidString(string(a.State)), !utf8.ValidString(a.Code), !utf8.ValidString(a.Reason):
		return command.Answer{}, errors.New("is not UTF-8")
	case a.State == "":
		return command.Answer{}, errors.New("has no state")
	case len(a.State) > maxCode:
		return command.Answer{}, errors.New("state is too long")
	}
	a.Code, a.Reason = cut(a.Code, maxCode), cut(a.Reason, maxReason)
	if len(a.Result) == 0 {
		a.Result = nil
	} else {
		var compact bytes.Buffer
		if err := json.Compact(&compact, a.Result); err != nil {
			return command.Answer{}, fmt.Errorf("result is not JSON: %w", err)
		}
		a.Result = compact.Bytes() // a copy: the payload is the gateway's
	}
	return a, nil
}

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

func parseProto(b []byte) (a command.Answer, err error) {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return a, protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType || number > 4 {
			if n = protowire.ConsumeFieldValue(number, typ, b); n < 0 {
				return a, protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return a, protowire.ParseError(n)
		}
		b = b[n:]
		if number < 4 && !utf8.Valid(value) {
			return a, fmt.Errorf("field %d is not UTF-8", number)
		}
		switch number {
		case 1:
			a.State = command.State(value)
		case 2:
			a.Code = string(value)
		case 3:
			a.Reason = string(value)
		case 4:
			a.Result = value
		}
	}
	return a, nil
}
