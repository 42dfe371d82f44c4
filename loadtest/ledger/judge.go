package ledger

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tachograph/tachograph/events"
)

// A Book is what was acknowledged, each message once, to be looked for in
// several places.
type Book struct {
	entries []Entry
	at      map[string]int // by id, which says device and type as well
}

// NewBook opens a book on acknowledged messages; repeats count once.
func NewBook(acknowledged []Entry) *Book {
	b := &Book{at: make(map[string]int, len(acknowledged))}
	for _, e := range acknowledged {
		if _, known := b.at[e.ID]; !known {
			b.at[e.ID] = len(b.entries)
			b.entries = append(b.entries, e)
		}
	}
	return b
}

// Len is how many different messages were acknowledged.
func (b *Book) Len() int { return len(b.entries) }

// Devices are those that had a message acknowledged, sorted.
func (b *Book) Devices() []string { return b.names(func(e Entry) string { return e.Device }) }

// Types are the messages' types, sorted.
func (b *Book) Types() []string { return b.names(func(e Entry) string { return e.Type }) }

func (b *Book) names(of func(Entry) string) []string {
	seen := map[string]bool{}
	for _, e := range b.entries {
		seen[of(e)] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// A Place is where copies are looked for. Copies of messages that nobody
// acknowledged are passed over: they may be there, or not.
type Place struct {
	book    *Book
	copies  []int
	altered []Entry
}

// Place returns an empty one.
func (b *Book) Place() *Place { return &Place{book: b, copies: make([]int, len(b.entries))} }

// Copy notes a copy that bears an id and has these bytes. It is the message
// only if the bytes are: a copy with the id of one message and other bytes is
// altered.
func (p *Place) Copy(device, typ, id string, payload []byte) {
	if i, known := p.book.at[events.DeriveID(device, typ, payload)]; known {
		p.copies[i]++
	} else if i, known := p.book.at[id]; known {
		p.altered = append(p.altered, p.book.entries[i])
	}
}

// Rows notes that a table has n rows with an id.
func (p *Place) Rows(device, typ, id string, n int) {
	i, known := p.book.at[id]
	if !known {
		return
	}
	if e := p.book.entries[i]; e.Device != device || e.Type != typ {
		p.altered = append(p.altered, e)
		return
	}
	p.copies[i] += n
}

// Found is how many of the messages are there at least once.
func (p *Place) Found() (n int) {
	for _, c := range p.copies {
		if c > 0 {
			n++
		}
	}
	return n
}

// A Verdict compares acknowledged messages with copies of them elsewhere. A
// device may send a message again when it did not hear the acknowledgement;
// the log keeps both, and so does tacho.events, but the type's table has one.
type Verdict struct {
	Acknowledged int `json:"acknowledged"` // different messages
	Log          int `json:"log"`          // of them in the log, byte for byte
	Events       int `json:"events"`       // of them in tacho.events, byte for byte
	Table        int `json:"table"`        // of them in their type's table

	Lost    []Entry `json:"lost"`    // acknowledged, and missing somewhere
	Doubled []Entry `json:"doubled"` // in the type's table more than once, or in tacho.events more often than in the log
	Altered []Entry `json:"altered"` // somewhere under its id with other bytes
	Repeats int     `json:"repeats"` // sent again by their device, so in the log more than once
}

// Judge compares what was found in the log, in tacho.events and in the types' tables.
func (b *Book) Judge(log, stored, table *Place) Verdict {
	v := Verdict{Acknowledged: b.Len(), Log: log.Found(), Events: stored.Found(), Table: table.Found()}
	for i, e := range b.entries {
		inLog, inEvents, inTable := log.copies[i], stored.copies[i], table.copies[i]
		if inLog > 1 {
			v.Repeats++
		}
		if inLog == 0 || inEvents == 0 || inTable == 0 {
			v.Lost = append(v.Lost, e)
		}
		if inTable > 1 || inEvents > max(inLog, 1) {
			v.Doubled = append(v.Doubled, e)
		}
	}
	for _, p := range []*Place{log, stored, table} {
		v.Altered = append(v.Altered, p.altered...)
	}
	return v
}

// Good tells whether everything is as promised.
func (v Verdict) Good() bool {
	return len(v.Lost) == 0 && len(v.Doubled) == 0 && len(v.Altered) == 0
}

func (v Verdict) String() string {
	text := fmt.Sprintf("%d acknowledged, %d in the log byte for byte, %d in tacho.events byte for byte, %d in their table; %d lost, %d doubled, %d altered (%d were sent again by their device)",
		v.Acknowledged, v.Log, v.Events, v.Table, len(v.Lost), len(v.Doubled), len(v.Altered), v.Repeats)
	for _, c := range []struct {
		what    string
		entries []Entry
	}{{"lost", v.Lost}, {"doubled", v.Doubled}, {"altered", v.Altered}} {
		for i, e := range c.entries {
			if i == 5 {
				text += fmt.Sprintf("\n  ... and %d more %s", len(c.entries)-i, c.what)
				break
			}
			text += fmt.Sprintf("\n  %s: %s %s %s", c.what, e.Device, e.Type, e.ID)
		}
	}
	return text
}
