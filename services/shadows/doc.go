// Package shadows keeps the shadows of a fleet in step with the log, decides on
// what is asked of them, and tells the devices and services that listen.
//
// The rules are package projections/shadow's. Here is what they need around
// them: the fold of all shadows, one queue of requests a shadow that is decided
// and appended at the expected position, and AWS IoT's topics.
//
//	request ─► queue of its shadow ─► Decide ─► Append at the shadow's sequence ─► accepted, delta, documents
//	                                     ▲                │ another writer was first
//	                                     └────────────────┘
//
// What is told follows from the facts in the log alone, so that it does not
// matter which process took the request in: each tells its own connections.
package shadows
