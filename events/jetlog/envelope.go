package jetlog

import (
	"bytes"
	"strings"

	"github.com/nats-io/nats.go"
)

// An envelope is what an event's headers say (DESIGN.md, "Envelope").
type envelope struct{ id, typ, schema, received string }

func envelopeOf(h nats.Header) envelope {
	if h == nil {
		return envelope{}
	}
	return envelope{id: h.Get(headerID), typ: h.Get(headerType), schema: h.Get(headerSchema), received: h.Get(headerReceived)}
}

// rawEnvelope reads headers as they come over the wire.
func rawEnvelope(headers []byte) (e envelope) {
	if len(headers) == 0 {
		return e
	}
	return envelope{
		id: strings.Clone(rawHeader(headers, headerID)), typ: strings.Clone(rawHeader(headers, headerType)),
		schema: rawHeader(headers, headerSchema), received: rawHeader(headers, headerReceived),
	}
}

const headerLine = "NATS/1.0"

// statusOf returns code and description of a message that the server made up.
func statusOf(headers []byte) (status string, ok bool) {
	line, _, _ := bytes.Cut(headers, []byte("\n"))
	line, ok = bytes.CutPrefix(line, []byte(headerLine))
	line = bytes.TrimSpace(line)
	return text(line), ok && len(line) >= 3
}

// rawHeader returns a header's first value, "" if there is none.
func rawHeader(headers []byte, name string) string {
	_, rest, _ := bytes.Cut(headers, []byte("\n"))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return ""
		}
		if len(line) > len(name) && line[len(name)] == ':' && text(line[:len(name)]) == name {
			return text(bytes.TrimLeft(line[len(name)+1:], " \t"))
		}
	}
	return ""
}
