// Package roster knows which devices are connected, to whatever gateway.
//
// A gateway tells it of its connections; each beginning and end becomes an event
// of the device's presence, appended at the expected position, so that versions
// only grow. A gateway that dies says nothing: its heart stops beating, and the
// others, or its successor, say it instead.
package roster
