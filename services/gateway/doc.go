// Package gateway is where devices meet Tachograph: over MQTT 3.1.1 and 5, HTTP
// and NATS. All three end in one function, Accept, and a device gets its
// acknowledgement only after the log has the event: PUBACK, PUBREC, a 2xx answer
// and a NATS reply all mean the same.
//
// Its promises:
//   - The device's bytes are stored as they came. A payload that its schema
//     cannot decode is stored too, and its sender is told.
//   - Acknowledgements come in the order of the messages; as many may be on their
//     way as Limits.Window says. A device that sends faster than the log stores
//     is not read from: nothing grows, nothing is dropped.
//   - A device speaks and listens only for itself.
//   - Whatever is refused is answered where the protocol has an answer, and
//     counted with its reason.
//   - No bytes from a socket make it panic.
//
// DESIGN.md holds the decisions and the table of limits.
package gateway
