// Package presence is whether a device is there: a fold of its connections'
// beginnings and ends.
//
// It is pure: nothing here reads a clock, a socket or the log.
//
//	connected ─► (further connections) ─► disconnected, the last ─► offline, once it stayed away for a while
package presence
