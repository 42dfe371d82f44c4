package events

import (
	"errors"
	"strings"
	"testing"
)

// TestSubjectsAreStable: subjects are a published format. These never change;
// a log written by any release must be readable by every later one.
func TestSubjectsAreStable(t *testing.T) {
	for subject, e := range map[string]Event{
		"in.18.car-1.position.3":             {Stream: Stream{Kind: Telemetry, ID: "car-1"}, Type: "position", Schema: 3},
		"in.203.VIN=2E1=20=2A.my=2Etype.0":   {Stream: Stream{Kind: Telemetry, ID: "VIN.1 *"}, Type: "my.type"},
		"fact.18.shadow.car-1":               {Stream: Stream{Kind: Shadow, ID: "car-1"}, Type: "updated"},
		"fact.18.shadow.car-1.=C3=A4":        {Stream: Stream{Kind: Shadow, ID: "car-1", Name: "ä"}, Type: "updated"},
		"secret.18.credential.car-1":         {Stream: Stream{Kind: Credential, ID: "car-1"}, Type: "issued"},
		"dead.18.car-1.position.1=2E0=2E7-0": {Stream: Stream{Kind: DeadLetter, ID: "car-1", Name: "1.0.7-0"}, Type: "position"},
	} {
		if got := e.Subject(); got != subject {
			t.Errorf("subject of %v is %s, was %s", e.Stream, got, subject)
		}
		s, typ, schema, err := ParseSubject(subject)
		if err != nil || s != e.Stream || schema != e.Schema {
			t.Errorf("parse %s: %v %d %v", subject, s, schema, err)
		}
		if e.Stream.Kind == Telemetry && typ != e.Type {
			t.Errorf("parse %s: type %q", subject, typ)
		}
	}
}

func TestSlotsAreStable(t *testing.T) {
	for id, want := range map[string]uint8{"": 197, "car-1": 18, "bus-2220": 76, "ä": 134} {
		if got := Slot(id); got != want {
			t.Errorf("slot of %q is %d, was %d", id, got, want)
		}
	}
	for n := 1; n <= Slots; n++ {
		last := uint16(0)
		for slot := range Slots {
			p := PartitionOf(uint8(slot), n)
			if p < last || p > last+1 || int(p) >= n {
				t.Fatalf("%d partitions: slot %d is in %d after %d", n, slot, p, last)
			}
			last = p
		}
		if int(last) != n-1 {
			t.Fatalf("%d partitions: the last one is %d", n, last)
		}
	}
}

func TestIDsAreStable(t *testing.T) {
	for _, c := range []struct{ device, typ, payload, want string }{
		{"car-1", "position", `{"time":1700000000000,"speed":1}`, "RuMsBcycNCyaDGrnlBb43g"},
		{"", "", "", "DRL9EQVVD56LPOkjzwovow"},
	} {
		if got := DeriveID(c.device, c.typ, []byte(c.payload)); got != c.want {
			t.Errorf("id of %v is %s", c, got)
		}
	}
	a, b := UniqueID(), UniqueID()
	if a == b || !ValidID(a) || len(a) != 22 {
		t.Errorf("unique ids %s, %s", a, b)
	}
	if DeriveID("ab", "c", nil) == DeriveID("a", "bc", nil) {
		t.Error("device and type run into each other")
	}
}

func TestParseSubjectRefuses(t *testing.T) {
	for _, subject := range []string{
		"", "in", "in.18.car-1.position", "in.18.car-1.position.x", "in.18.car-1.position.1.2", "in.0.car-1.position.1",
		"in.18.car 1.position.1", "in.18.car=1.position.1", "in.18.car=41.position.1", "out.18.car-1.position.1",
		"fact.18.credential.car-1", "secret.18.shadow.car-1", "fact.18..car-1", "fact.18.shadow.car-1.a.b.c", "dead.18.car-1.position",
		"in.18.car-1.position.4294967296", strings.Repeat("a.", 100),
	} {
		if s, _, _, err := ParseSubject(subject); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is read as %v, %v", subject, s, err)
		}
	}
}

// FuzzSubject: every stream that an event may have comes back from its subject,
// and what is not one of ours is refused.
func FuzzSubject(f *testing.F) {
	f.Add("car-1", "position", "", "in.18.car-1.position.3")
	f.Add("a.b", "=", "\xff", "fact.1.shadow.x.y")
	f.Fuzz(func(t *testing.T, id, typ, name, subject string) {
		for _, e := range []Event{
			{Stream: Stream{Kind: Telemetry, ID: id}, Type: typ, Schema: 7, ID: "x"},
			{Stream: Stream{Kind: Shadow, ID: id, Name: name}, Type: typ, ID: "x"},
			{Stream: Stream{Kind: DeadLetter, ID: id, Name: name}, Type: typ, ID: "x"},
		} {
			if e.Validate() != nil {
				continue
			}
			s, gotType, _, err := ParseSubject(e.Subject())
			if err != nil || s != e.Stream || e.Stream.Kind != Shadow && gotType != e.Type {
				t.Fatalf("%+v became %s and %+v, %v", e.Stream, e.Subject(), s, err)
			}
		}
		if s, typ, schema, err := ParseSubject(subject); err == nil {
			again := (&Event{Stream: s, Type: typ, Schema: schema}).Subject()
			if again != subject && !strings.HasPrefix(subject, "in.") { // a version may have zeros in front
				t.Fatalf("%s reads as %s", subject, again)
			}
		}
	})
}

func TestSubjectBudget(t *testing.T) {
	e := Event{Stream: Stream{Kind: Telemetry, ID: "car-1"}, Type: "position", Schema: 3}
	b := make([]byte, 0, 128)
	if n := testing.AllocsPerRun(100, func() { b = e.AppendSubject(b[:0]) }); n != 0 {
		t.Errorf("AppendSubject allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = DeriveID("car-1", "position", b) }); n > 1 {
		t.Errorf("DeriveID allocates %v times", n)
	}
}
