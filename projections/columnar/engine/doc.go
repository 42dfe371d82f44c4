// Package engine runs ClickHouse as a child process: the real engine, release
// 26.7, from the library that the npm package @chdb/lib-linux-x64-gnu carries.
//
// The child is this program started again (ChildMain): it loads the library
// without cgo and lets it be clickhouse-local with its listeners open, so that
// any ClickHouse client can connect. When the parent ends, however it ends, the
// child's standard input does too, and it stops. When the child ends unasked,
// the parent starts it again on the same ports.
//
// The library differs from ClickHouse in one thing that matters here: a write
// that fails is taken for done. So a failed write ends the child (guardWrites).
//
// A folder belongs to one engine, and the child can open no file of anybody
// else's (confine). What the users of an engine may do is in settings.go: nothing
// is reachable without a password.
package engine
