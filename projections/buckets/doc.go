// Package buckets replays views that are kept in a bucket of NATS KV, a document a
// key: it builds one anew beside the one that serves, compares the two and replaces
// the documents that differ.
//
// A view says how it is folded and where it stands (View); the rest is the same for
// all of them. Each document is a JSON object with the field position: that of the
// newest event in it. Keys that begin with "=" are no documents.
package buckets
