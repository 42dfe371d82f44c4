package compact

import (
	"maps"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/presence"
)

// connections keeps of a device's presence what it is made of since it was last away:
// from the last end of its last connection on that a connect follows. Where that
// never was, because there always was another connection, everything.
type connections struct {
	all    []events.Event
	device presence.Device // folded of everything there ever was
	alone  int             // index of the last fact after which it had no connection; 0: none to begin at
}

func (k *connections) add(e events.Event) {
	k.all = append(k.all, e)
	f, err := presence.ParseFact(e.Payload)
	if err != nil {
		return // the fold passes over it
	}
	k.device.Evolve(f)
	switch {
	case f.Type == presence.TypeDisconnected && !k.device.Connected():
		k.alone = len(k.all) - 1
	case f.Type == presence.TypeConnected && k.alone > 0 && sameDevice(fold(k.all[k.alone:]), k.device):
		k.all = append([]events.Event(nil), k.all[k.alone:]...)
		k.alone = 0
	}
}

func (k *connections) facts() ([]events.Event, error) { return k.all, nil }
func (k *connections) over() bool                     { return false }

func fold(all []events.Event) (d presence.Device) {
	for _, e := range all {
		if f, err := presence.ParseFact(e.Payload); err == nil {
			d.Evolve(f)
		}
	}
	return d
}

func sameDevice(a, b presence.Device) bool {
	return a.Version == b.Version && a.Since == b.Since && a.Reason == b.Reason && a.Offline == b.Offline && maps.Equal(a.Sessions, b.Sessions)
}
