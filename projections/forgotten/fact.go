package forgotten

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/events"
)

// The types of the facts. Their stream is named after the device and the
// request's id.
const (
	TypeAsked = "asked" // the data have to go
	TypeBegan = "began" // it was found out how much that is, and is being removed
	TypeDone  = "done"  // they are gone: their bytes have left the disk
)

// Asked is the payload of "asked". Times are arrival times.
type Asked struct {
	From time.Time `json:"from,omitzero"` // inclusive; zero: from the beginning
	To   time.Time `json:"to"`            // exclusive, not after At
	By   string    `json:"by"`            // who asked
	At   time.Time `json:"at"`            // when
}

// Began is the payload of "began".
type Began struct {
	At     time.Time         `json:"at"`
	Counts map[string]uint64 `json:"counts"` // "log": events, "log dead letters" and "log presence": likewise, "table NAME": rows
}

// Done is the payload of "done".
type Done struct {
	At time.Time `json:"at"`
}

// Event makes an event of a fact of a request.
func Event(device, id, typ string, fact any) (events.Event, error) {
	payload, err := json.Marshal(fact)
	if err != nil {
		return events.Event{}, fmt.Errorf("render fact %s of forgetting %s: %w", typ, device, err)
	}
	return events.Event{Stream: Stream(device, id), Type: typ, ID: events.UniqueID(), Payload: payload}, nil
}

// Stream is where the facts of a request stand.
func Stream(device, id string) events.Stream {
	return events.Stream{Kind: events.Forgotten, ID: device, Name: id}
}
