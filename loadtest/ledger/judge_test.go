package ledger

import (
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
)

func entry(device, payload string) Entry {
	return Entry{device, "position", events.DeriveID(device, "position", []byte(payload))}
}

// TestJudge: each thing that can go wrong, in each place, is seen.
func TestJudge(t *testing.T) {
	const one, two = `{"time":1,"speed":7}`, `{"time":2,"speed":8}`
	a, b := entry("car-1", one), entry("car-2", two)
	type copy struct {
		e       Entry
		payload string
	}
	good, rows := []copy{{a, one}, {b, two}}, []Entry{a, b}
	for name, c := range map[string]struct {
		log, events             []copy
		table                   []Entry
		lost, doubled, altered  int
		inLog, inEvents, inType int
	}{
		"as promised":               {good, good, rows, 0, 0, 0, 2, 2, 2},
		"sent again and recognised": {append(good, good[0]), append(good, good[0]), rows, 0, 0, 0, 2, 2, 2},
		"other messages beside":     {append(good, copy{entry("car-1", "x"), "x"}), append(good, copy{Entry{"car-1", "position", "unique"}, "x"}), append(rows, entry("car-1", "x")), 0, 0, 0, 2, 2, 2},
		"lost from the log":         {good[:1], good, rows, 1, 0, 0, 1, 2, 2},
		"lost from events":          {good, good[1:], rows, 1, 0, 0, 2, 1, 2},
		"lost from the table":       {good, good, rows[:1], 1, 0, 0, 2, 2, 1},
		"lost everywhere":           {good[:1], good[:1], rows[:1], 1, 0, 0, 1, 1, 1},
		"doubled in the table":      {good, good, append(rows, a), 0, 1, 0, 2, 2, 2},
		"doubled in events":         {good, append(good, good[1]), rows, 0, 1, 0, 2, 2, 2},
		"altered in the log":        {[]copy{{a, one + " "}, {b, two}}, good, rows, 1, 0, 1, 1, 2, 2},
		"altered in events":         {good, []copy{{a, strings.ToUpper(one)}, {b, two}}, rows, 1, 0, 1, 2, 1, 2},
		"altered beside a good one": {good, append(good, copy{a, "{}"}), rows, 0, 0, 1, 2, 2, 2},
		"another device's":          {good, good, []Entry{{"car-9", "position", a.ID}, b}, 1, 0, 1, 2, 2, 1},
	} {
		book := NewBook([]Entry{a, b, a})
		log, stored, table := book.Place(), book.Place(), book.Place()
		for _, x := range c.log {
			log.Copy(x.e.Device, x.e.Type, x.e.ID, []byte(x.payload))
		}
		for _, x := range c.events {
			stored.Copy(x.e.Device, x.e.Type, x.e.ID, []byte(x.payload))
		}
		for _, e := range c.table {
			table.Rows(e.Device, e.Type, e.ID, 1)
		}
		v := book.Judge(log, stored, table)
		if v.Acknowledged != 2 || v.Log != c.inLog || v.Events != c.inEvents || v.Table != c.inType ||
			len(v.Lost) != c.lost || len(v.Doubled) != c.doubled || len(v.Altered) != c.altered || v.Good() != (c.lost+c.doubled+c.altered == 0) {
			t.Errorf("%s: %s", name, v)
		}
	}
}

func TestVerdictNamesAFew(t *testing.T) {
	v := Verdict{Acknowledged: 9, Lost: make([]Entry, 9), Doubled: []Entry{{"car-1", "position", "AAA"}}}
	if text := v.String(); strings.Count(text, "\n") != 7 || !strings.Contains(text, "and 4 more lost") || !strings.Contains(text, "doubled: car-1 position AAA") {
		t.Error(text)
	}
}
