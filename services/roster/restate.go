package roster

import (
	"context"
	"fmt"

	"github.com/tachograph/tachograph/projections/presence"
)

// Restate says again how a device is: each of its connections, or that it is
// offline. What was said before can then be removed from the log: whoever folds
// it anew still knows, and the stream's newest fact, after which the next is
// appended, is this one. A device that was never there stays so.
func (r *Roster) Restate(ctx context.Context, device string) error {
	r.mu.Lock()
	var sessions []string
	e := r.devices[device]
	if e != nil {
		for id := range e.Sessions {
			sessions = append(sessions, id)
		}
	}
	r.mu.Unlock()
	if e == nil {
		return nil
	}
	for _, id := range sessions {
		err := r.append(ctx, device, now(func(d *presence.Device, at int64) (presence.Fact, bool) {
			s, connected := d.Sessions[id]
			return presence.Fact{Type: presence.TypeConnected, At: at, Version: d.Version + 1, Session: id, Client: s.Client, Gateway: s.Gateway}, connected
		}))
		if err != nil {
			return fmt.Errorf("restate presence of %s: %w", device, err)
		}
	}
	err := r.append(ctx, device, now(func(d *presence.Device, at int64) (presence.Fact, bool) {
		return presence.Fact{Type: presence.TypeOffline, At: at, Version: d.Version + 1, Reason: d.Reason}, !d.Connected()
	}))
	if err != nil {
		return fmt.Errorf("restate presence of %s: %w", device, err)
	}
	return nil
}
