package memlog

import (
	"errors"

	"github.com/tachograph/tachograph/events"
)

// isUnknown tells a fault whose append happened from one that prevented it.
func isUnknown(err error) bool { return errors.Is(err, events.ErrUnknown) }
