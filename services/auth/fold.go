package auth

import (
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/tachograph/tachograph/events"
)

// The types of the facts.
const (
	typeAdded   = "added"
	typeRemoved = "removed"
	typeIssued  = "issued"
	typeRevoked = "revoked"
)

// The payload of "issued"; that of the others is {}.
type issued struct {
	SHA256 string `json:"sha256"`
}

func (i issued) digest() (d digest, err error) {
	n, err := hex.Decode(d[:], []byte(i.SHA256))
	if err == nil && n != len(d) {
		err = fmt.Errorf("digest has %d bytes", n)
	}
	return d, err
}

// fold takes one event of the control partition, each once and in order, then
// tells who listens.
func (d *Directory) fold(e events.Event) {
	d.mu.Lock()
	if e.Position.Seq <= d.cursor.Position.Seq {
		d.mu.Unlock()
		return
	}
	revoked := d.apply(e)
	d.cursor = events.Cursor{Position: e.Position, ID: e.ID}
	close(d.changed)
	d.changed = make(chan struct{})
	tell := d.onRevoke
	d.mu.Unlock()
	if revoked {
		for _, f := range tell {
			f(e.Stream.ID)
		}
	}
}

// apply evolves one device and tells whether a token lost its force.
func (d *Directory) apply(e events.Event) (revoked bool) {
	if e.Stream.Kind != events.Registry && e.Stream.Kind != events.Credential {
		return false
	}
	id := e.Stream.ID
	dev := d.devices[id]
	if dev == nil {
		dev = &entry{Device: Device{ID: id}}
		d.devices[id] = dev
	}
	if e.Stream.Kind == events.Registry {
		dev.registry = e.Position.Seq
		switch e.Type {
		case typeAdded:
			dev.exists, dev.Added = true, e.Received
		case typeRemoved:
			// The token goes with the device, whether or not "revoked" follows.
			revoked = d.forget(dev)
			dev.exists = false
		}
		d.sorted = nil
		return revoked
	}
	dev.credential = e.Position.Seq
	switch e.Type {
	case typeIssued:
		if !dev.exists { // it lost a race against "removed"
			return false
		}
		var is issued
		err := json.Unmarshal(e.Payload, &is)
		sum, derr := is.digest()
		revoked = d.forget(dev)
		if err != nil || derr != nil {
			d.logger.Error("credential in the log cannot be used", "device", id, "position", e.Position.String())
			return revoked
		}
		dev.issued, dev.digest = true, sum
		d.owners[sum] = id
	case typeRevoked:
		revoked = d.forget(dev)
	}
	return revoked
}

// forget makes the device's token worthless and tells whether it had one.
func (d *Directory) forget(dev *entry) bool {
	had := dev.issued
	if had {
		delete(d.owners, dev.digest)
	}
	dev.issued, dev.digest = false, digest{}
	return had
}
