package command

// A State is where a command stands.
type State string

// The states, in the order of a life without trouble.
const (
	Queued    State = "queued"    // known to the server, not yet sent
	Sent      State = "sent"      // about to be written to the device's connection, or written
	Delivered State = "delivered" // the device has acknowledged the message
	Accepted  State = "accepted"  // the device says it will do it
	Running   State = "running"   // the device is at it
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Rejected  State = "rejected"  // the device says it won't
	Cancelled State = "cancelled" // before it was sent, or by the device on request
	Expired   State = "expired"   // the deadline passed and it was never sent
	TimedOut  State = "timed_out" // it was sent and no final answer came in time
)

// rank orders the states that a device goes through; a device may skip some
// and never goes back. Final states have no rank above one another.
func (s State) rank() int {
	switch s {
	case Queued:
		return 1
	case Sent:
		return 2
	case Delivered:
		return 3
	case Accepted:
		return 4
	case Running:
		return 5
	case Succeeded, Failed, Rejected, Cancelled, Expired, TimedOut:
		return 6
	default:
		return 0
	}
}

// Final tells whether the state is an outcome. TimedOut is one too, but a late
// answer of the device still replaces the time-out that the server set.
func (s State) Final() bool { return s.rank() == 6 }

// answerable tells whether a device may report the state.
func (s State) answerable() bool {
	switch s {
	case Accepted, Running, Succeeded, Failed, Rejected, Cancelled, TimedOut:
		return true
	default:
		return false
	}
}
