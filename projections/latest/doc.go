// Package latest is the fold that knows, for each device and signal, the newest
// value by the device's own clock. It is kept in a NATS KV bucket, one document
// a device, that services can read and watch.
//
// It promises that late data never replaces newer, that a clock from the future
// cannot freeze a value, and that the documents are a function of the log alone:
// whatever was batched, crashed or repeated, they come out the same. DESIGN.md
// is the specification of the document.
//
// It refuses to skip: a log that differs from what the bucket says, or that was
// purged before it was read, ends Run with an error that names the remedy.
//
//	p, err := latest.New(latest.Config{Log: log, Catalog: catalog, KV: kv, Logger: logger})
//	go p.Run(ctx)
//	state, err := latest.Read(ctx, kv, "car-1")
//	speed, ok := state.Signal("position", "speed")
package latest
