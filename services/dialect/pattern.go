package dialect

import (
	"fmt"
	"strings"
)

// A pattern is a compiled topic of a rule.
type pattern struct {
	levels []level
	route  Route
}

type level struct {
	is   role
	text string // of a literal
}

type role uint8

const (
	literal role = iota
	device       // {device}
	message      // {message}
	named        // {name}
	any1         // *
	rest         // # at the end
)

type outcome uint8

const (
	unmatched outcome = iota
	matched
	foreign // it would match if the device were another
)

func compile(topic string, down bool) (p pattern, err error) {
	texts := strings.Split(topic, "/")
	for i, text := range texts {
		l := level{text: text}
		switch {
		case text == "{device}":
			l = level{is: device}
		case text == "{message}" && !down && !p.has(message):
			l = level{is: message}
		case text == "{name}" && !down && !p.has(named):
			l = level{is: named}
		case text == "*" && down:
			l = level{is: any1}
		case text == "#" && down && i > 0 && i == len(texts)-1:
			l = level{is: rest}
		case strings.ContainsAny(text, "{}*+#\x00"):
			return pattern{}, fmt.Errorf("topic %q: level %d cannot be %q", topic, i, text)
		}
		p.levels = append(p.levels, l)
	}
	if p.levels[0].is != literal {
		return pattern{}, fmt.Errorf("topic %q: the first level must be literal", topic)
	}
	return p, nil
}

func (p *pattern) has(is role) bool {
	for _, l := range p.levels {
		if l.is == is {
			return true
		}
	}
	return false
}

func (p *pattern) parse(self, topic string) (Route, outcome) {
	route, result := p.route, matched
	for i, l := range p.levels {
		text, tail, more := strings.Cut(topic, "/")
		if more != (i < len(p.levels)-1) {
			return Route{}, unmatched
		}
		topic = tail
		switch {
		case l.is == literal && text != l.text, l.is != literal && text == "":
			return Route{}, unmatched
		case l.is == device && text != self:
			result = foreign
		case l.is == message:
			route.Type = text
		case l.is == named:
			route.Name = text
		}
	}
	return route, result
}

func (p *pattern) format(self string, r Route) (string, bool) {
	if p.route.Kind != r.Kind || r.Type == "" || p.route.Type != "" && p.route.Type != r.Type || p.has(named) != (r.Name != "") {
		return "", false
	}
	var b strings.Builder
	for i, l := range p.levels {
		if i > 0 {
			b.WriteByte('/')
		}
		switch l.is {
		case device:
			b.WriteString(self)
		case message:
			b.WriteString(r.Type)
		case named:
			b.WriteString(r.Name)
		default:
			b.WriteString(l.text)
		}
	}
	return b.String(), true
}

// covers tells whether all that a filter matches lies within the pattern. A #
// may stand from the second level on: what it takes in beyond this pattern is
// below the same literal level, and so the device's own.
func (p *pattern) covers(self, filter string) outcome {
	result := matched
	for i, l := range p.levels {
		if l.is == rest {
			return result
		}
		text, tail, more := strings.Cut(filter, "/")
		if text == "#" && i > 0 {
			return result
		}
		switch l.is {
		case literal:
			if text != l.text {
				return unmatched
			}
		case device:
			if text != self {
				result = foreign
			}
		}
		if !more {
			if i == len(p.levels)-1 {
				return result
			}
			return unmatched
		}
		filter = tail
	}
	return unmatched
}
