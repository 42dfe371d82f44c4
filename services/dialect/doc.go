// Package dialect says what a fleet's MQTT topics mean. A dialect is data: a
// list of patterns, so that the conventions of AWS IoT, Google IoT Core,
// ThingsBoard or Artik are further lists and no further code.
//
//	telemetry/{message}            a message of that type, from whoever is connected
//	telemetry/{device}/{message}   the same, accepted only with the sender's own id
//	shadow/update, shadow/name/{name}/update, …   a request to the device's shadow
//	commands/{name}/answer         what became of the command of that id
//	commands/{name}, cancel/{name} to the device: a command, and the wish that it be given up
//
// Everything here is pure: no I/O, no clock. A topic comes from a socket; no
// topic makes Parse panic or allocate.
package dialect
