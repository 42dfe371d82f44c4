package compact

import (
	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
)

// order keeps a command whole for as long as it is open, and nothing of one that has
// ended: who asks for it is answered from the archive. What comes after the end, such
// as an answer that is late, goes with it: without the order in front of it a fold
// passes over it.
type order struct {
	all []events.Event
	c   command.Command
}

func (k *order) add(e events.Event) {
	f, err := command.ParseFact(e.Payload)
	if k.all = append(k.all, e); err == nil {
		k.c.Evolve(f)
	}
}

func (k *order) facts() ([]events.Event, error) { return k.all, nil }

func (k *order) over() bool {
	return k.c.State.Final() || k.c.Order.ID == ""
}
