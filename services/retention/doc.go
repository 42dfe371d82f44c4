// Package retention lets go of what need not be kept.
//
// The janitor purges telemetry from the log's streams, never more than the
// operator's age limit, the archive and every projection allow, and tells who
// holds it back. Control facts are compacted, if that is asked for: what folds need
// of the oldest becomes the log's base, and then they are purged, too. Nothing else
// ever leaves the log to make room: a stream that is full refuses.
package retention
