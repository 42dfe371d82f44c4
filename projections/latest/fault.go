package latest

import (
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// conflicts tells that a document is not at the revision it was read at.
func conflicts(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// hopeless tells that a document is too large for the bucket: trying again
// would hold up all others.
func hopeless(err error) bool {
	const messageExceedsMaximum = 10054
	if errors.Is(err, nats.ErrMaxPayload) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == messageExceedsMaximum
}

// permanent tells that trying again does not help and going on would be wrong.
func permanent(err error) bool { return errors.Is(err, errDamaged) }
