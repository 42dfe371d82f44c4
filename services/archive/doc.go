// Package archive writes the raw events that ClickHouse keeps into Parquet files,
// which any tool can read, and refills an empty log from them: with the same ids,
// arrival times and positions, so that everything folded from it is the same
// again. The format is described in DESIGN.md.
package archive
