// Package columnar writes the log into ClickHouse: every event once into the
// table events, and every sample of a message whose schema is registered once
// into its type's own table.
//
//	Follow ─► build: bytes to Arrow columns ─► insert: ArrowStream, table by table ─► checkpoint
//
// One batch is built while the one before is inserted. Exactly once rests on
// one idea: a row says where in the log it comes from, so after any doubt the
// writer asks which rows are there and inserts the others. DESIGN.md has the
// argument.
package columnar
