// Package vehiclepb is the built-in message type position as protoc-gen-go
// generates it, for comparison: nothing of ours reads payloads with it.
//
// After a change of the schema: go test ./peers/vehiclepb -update
package vehiclepb
