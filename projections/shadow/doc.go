// Package shadow is the device shadow: what a device should be (desired), what
// it says it is (reported), and the difference.
//
// It is pure. Decide turns a request into a fact or an error, Evolve folds a
// fact into the document, and the response documents are rendered from the
// two; nothing here reads a clock, a socket or the log. The same Evolve serves
// the live view, a rebuild and time travel.
//
// The contract is AWS IoT Device Shadow's: merge rules, versions, metadata,
// error codes and limits. What goes beyond it is named in DESIGN.md.
//
//	fact, err := shadow.Decide(doc, req, now)   // *shadow.Error: code and message as AWS gives them
//	next := doc.Evolve(fact)
//	next.Delta()                                // nil when the device is as desired
package shadow
