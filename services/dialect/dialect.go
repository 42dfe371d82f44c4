package dialect

import (
	"errors"
	"fmt"
	"strings"
)

// Why a topic is refused.
var (
	ErrForeign = errors.New("topic is not the device's own")   // speak and listen for yourself only
	ErrUnknown = errors.New("topic has no meaning here")       // see the dialect's list
	ErrFilter  = errors.New("topic filter is not well formed") // a wild card takes a whole level, # the last
)

// A Kind is what a topic is about.
type Kind uint8

// The kinds.
const (
	Telemetry Kind = iota + 1 // a device's message; Route.Type says which
	Shadow                    // Route.Type is what is asked for or answered, Route.Name the shadow
	Command                   // Route.Type is answer, or nothing of a command itself; Route.Name its id
)

// A Route is what a topic says.
type Route struct {
	Kind Kind
	Type string // message type
	Name string // what it is about beside the device; empty for most
}

// A Rule gives a topic a meaning. Each level of Topic is literal text,
// {device} (the sender's own id), {message} (the route's type) or {name}.
// In a topic that is sent to devices {message} may stand for several levels.
type Rule struct {
	Topic string
	Kind  Kind
	Type  string // of a topic without {message}
}

// A Dialect is one convention. It is immutable and safe for all goroutines.
type Dialect struct {
	name   string
	up     []pattern
	down   []pattern // what they may subscribe to
	speaks []pattern // what is sent to them
}

// New compiles a dialect. up lists what devices publish, the preferred form of
// a route first, speaks what is sent to them. down lists what they may subscribe
// to: there a level may also be * (any one level), and a last # stands for any
// further levels.
func New(name string, up, speaks []Rule, down []string) (*Dialect, error) {
	d := &Dialect{name: name}
	var errs []error
	rules := func(rules []Rule) (ps []pattern) {
		for _, r := range rules {
			p, err := compile(r.Topic, false)
			if err == nil && (p.has(message) == (r.Type != "")) {
				err = fmt.Errorf("topic %q: the type is either a level or given", r.Topic)
			}
			if err == nil && r.Kind == 0 {
				err = fmt.Errorf("topic %q: has no kind", r.Topic)
			}
			p.route = Route{Kind: r.Kind, Type: r.Type}
			ps, errs = append(ps, p), append(errs, err)
		}
		return ps
	}
	d.up, d.speaks = rules(up), rules(speaks)
	for _, topic := range down {
		p, err := compile(topic, true)
		d.down, errs = append(d.down, p), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("dialect %s: %w", name, err)
	}
	return d, nil
}

// Name returns the dialect's name.
func (d *Dialect) Name() string { return d.name }

// Parse tells what a topic means that the device publishes to. Route.Type is
// part of topic, not yet checked to be a possible name.
//
// Errors: ErrForeign, ErrUnknown.
func (d *Dialect) Parse(device, topic string) (Route, error) {
	verdict := ErrUnknown
	for i := range d.up {
		route, outcome := d.up[i].parse(device, topic)
		switch outcome {
		case matched:
			return route, nil
		case foreign:
			verdict = ErrForeign
		}
	}
	if strings.HasPrefix(topic, "$") {
		verdict = ErrForeign // the broker's own, wherever there is a broker
	}
	return Route{}, verdict
}

// Format returns the preferred topic of a route; ok is false when the dialect
// has none for it.
func (d *Dialect) Format(device string, r Route) (topic string, ok bool) {
	for i := range d.up {
		if topic, ok = d.up[i].format(device, r); ok {
			return topic, true
		}
	}
	return "", false
}

// Topics returns all topics under which a device may hear a route; it listens
// to some of them, as its firmware has it.
func (d *Dialect) Topics(device string, r Route) (topics []string) {
	for i := range d.speaks {
		if topic, ok := d.speaks[i].format(device, r); ok {
			topics = append(topics, topic)
		}
	}
	return topics
}

// Subscribable tells whether a device may listen to a filter: all that the
// filter can match must be the device's own.
//
// Errors: ErrFilter, ErrForeign, ErrUnknown.
func (d *Dialect) Subscribable(device, filter string) error {
	if !ValidFilter(filter) {
		return ErrFilter
	}
	verdict := ErrUnknown
	for i := range d.down {
		switch d.down[i].covers(device, filter) {
		case matched:
			return nil
		case foreign:
			verdict = ErrForeign
		}
	}
	if c := filter[0]; c == '$' || c == '#' || c == '+' {
		verdict = ErrForeign
	}
	return verdict
}
