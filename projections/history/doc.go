// Package history is the log and its archive as one: what was purged from the
// stream is read from the archive, then the reader goes on in the stream, each
// event once and none left out, also when the janitor purges meanwhile.
//
// A projection that gets such a log can be folded from the beginning however
// short the stream is:
//
//	whole := history.New(log, &columnar.Archive{...}, ledger, logger)
//	for e, err := range whole.Follow(ctx, 0, events.Cursor{}) { ... }
//
// What neither of the two has, and nobody had removed, is told and never passed
// over: *events.TruncatedError where the archive has let its oldest events go,
// *MissingError where it should have them.
package history
