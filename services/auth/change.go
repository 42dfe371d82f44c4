package auth

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tachograph/tachograph/events"
)

// Add lets a device speak and returns its token, which cannot be had again. A
// device that was added without ever getting a token (the process was killed in
// between) gets it now. Of several at once, one wins.
//
// Errors: ErrExists, those of ValidDeviceID, and those of events.Log.Append.
func (d *Directory) Add(ctx context.Context, id string) (token string, err error) {
	if err := ValidDeviceID(id); err != nil {
		return "", fmt.Errorf("add device: %w", err)
	}
	err = d.decide(ctx, func(now entry) error {
		if now.exists && now.issued {
			return ErrExists
		}
		if !now.exists {
			return d.append(ctx, events.Registry, id, typeAdded, now.registry, struct{}{})
		}
		return nil
	}, id)
	if err == nil {
		err = d.decide(ctx, func(now entry) error {
			if !now.exists || now.issued { // another one was first
				return ErrExists
			}
			token, err = d.issue(ctx, now)
			return err
		}, id)
	}
	if err != nil {
		return "", fmt.Errorf("add device %s: %w", id, err)
	}
	return token, nil
}

// NewToken replaces a device's token; its live sessions end.
//
// Errors: ErrNotFound, and those of events.Log.Append.
func (d *Directory) NewToken(ctx context.Context, id string) (token string, err error) {
	err = d.decide(ctx, func(now entry) error {
		if !now.exists {
			return ErrNotFound
		}
		token, err = d.issue(ctx, now)
		return err
	}, id)
	if err != nil {
		return "", fmt.Errorf("new token of %s: %w", id, err)
	}
	return token, nil
}

// Remove ends a device: its token is worthless, its live sessions end. What it
// sent stays.
//
// Errors: ErrNotFound, and those of events.Log.Append.
func (d *Directory) Remove(ctx context.Context, id string) error {
	err := d.decide(ctx, func(now entry) error {
		if !now.exists {
			return ErrNotFound
		}
		return d.append(ctx, events.Registry, id, typeRemoved, now.registry, struct{}{})
	}, id)
	if err != nil {
		return fmt.Errorf("remove device %s: %w", id, err)
	}
	// The token went with the fact above. This one ends the credential's own
	// history; that it may lose a race against a new device is of no account.
	err = d.append(ctx, events.Credential, id, typeRevoked, d.entry(id).credential, struct{}{})
	if err != nil && !isConflict(err) {
		d.logger.Warn("removed device's credential has no final fact", "device", id, "error", err)
	}
	return nil
}

// decide runs f on the device as folded, and again when another writer was
// first.
func (d *Directory) decide(ctx context.Context, f func(now entry) error, id string) error {
	for attempt := 1; ; attempt++ {
		err := f(d.entry(id))
		if !isConflict(err) || attempt == attempts {
			return err
		}
		if err := d.catchUp(ctx); err != nil {
			return err
		}
	}
}

// attempts bounds how often a decision is made again: who loses to others so
// often is better told so.
const attempts = 32

func (d *Directory) issue(ctx context.Context, now entry) (string, error) {
	token, sum := newToken()
	fact := issued{hex.EncodeToString(sum[:])}
	return token, d.append(ctx, events.Credential, now.ID, typeIssued, now.credential, fact)
}

// append stores one fact and returns when the directory has folded it.
func (d *Directory) append(ctx context.Context, kind events.Kind, id, typ string, last uint64, fact any) error {
	payload, err := json.Marshal(fact)
	if err != nil {
		return err
	}
	pos, err := d.log.Append(ctx, events.At(last), events.Event{
		Stream: events.Stream{Kind: kind, ID: id}, Type: typ, ID: events.UniqueID(), Payload: payload,
	})
	if err != nil {
		return err
	}
	return d.await(ctx, pos.Seq)
}

func isConflict(err error) bool {
	var conflict *events.ConflictError
	return errors.As(err, &conflict)
}

func (d *Directory) entry(id string) entry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if e := d.devices[id]; e != nil {
		return *e
	}
	return entry{Device: Device{ID: id}}
}
