// Package jetlog keeps the log in NATS JetStream.
//
// Telemetry is appended blindly by one group commit a partition: what waits is
// sent as one fast-ingest batch, and with Durability Disk one fsync of the
// stream's newest block files, shared by all who wait, comes before anybody is
// told. Control facts are appended one decision at a time, at the expected
// last sequence of their subject. DESIGN.md has the argument and the figures.
package jetlog
