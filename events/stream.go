package events

// A Kind is a family of facts. It decides which stream of the log keeps them
// and who may hear them; see DESIGN.md, "Subjects".
type Kind string

// The kinds of today. Every kind but Telemetry is a control fact: appended at
// an expected position, one subject per aggregate.
const (
	Telemetry  Kind = "telemetry"  // what a device measured
	Registry   Kind = "registry"   // devices that were added or removed
	Credential Kind = "credential" // hashes of device tokens; never republished
	SchemaKind Kind = "schema"     // schemas that were registered
	Presence   Kind = "presence"   // connects and disconnects
	Shadow     Kind = "shadow"     // desired and reported configuration
	Command    Kind = "command"    // what a device was told to do
	Job        Kind = "job"        // commands for many devices
	Forgotten  Kind = "forgotten"  // what had to be removed from the log, and that it was
	DeadLetter Kind = "dead"       // what could not be decoded
	Letter     Kind = "letter"     // what became of a dead letter; Name is its LetterID
)

// A Stream is the sequence of events of one aggregate.
//
// For telemetry it is a device; Name is empty but for the replay of a dead
// letter, whose LetterID it is. For control facts ID is the
// device, or the aggregate's own id where it has no device (a schema's name),
// and Name tells several aggregates of one id apart (a named shadow); both may
// hold any bytes, the log escapes them.
type Stream struct {
	Kind Kind
	ID   string
	Name string
}

// Covers tells whether the events of another stream are among those of s: of a
// device's telemetry the replays of its dead letters are.
func (s Stream) Covers(o Stream) bool {
	return o == s || s.Name == "" && (s.Kind == DeadLetter || s.Kind == Telemetry) && o.Kind == s.Kind && o.ID == s.ID
}

func (s Stream) String() string {
	if s.Name == "" {
		return string(s.Kind) + "/" + s.ID
	}
	return string(s.Kind) + "/" + s.ID + "/" + s.Name
}
