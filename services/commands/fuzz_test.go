package commands_test

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/commands"
)

// FuzzParseAnswer: whatever a device sends, what is taken can be kept as JSON
// and read again.
func FuzzParseAnswer(f *testing.F) {
	for _, s := range []string{
		`{"state":"succeeded","code":"c","reason":"r","result":{"a":[1,null]}}`, ` {"state":"running","result":null}`, `{"state":`, "{\"state\":\"\xff\"}",
		"\x0a\x07running\x22\x0e{\"percent\":90}", "\x0a\x01", "\x22\x01\xff", "\x0a\x02ok\x22\x00", "", "[]", "\x0a{",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		a, err := commands.ParseAnswer(payload)
		if err != nil {
			return
		}
		if a.State == "" || !utf8.ValidString(a.Reason) || a.Result != nil && !json.Valid(a.Result) {
			t.Fatalf("%+v", a)
		}
		b, err := command.Fact{Type: string(a.State), Code: a.Code, Reason: a.Reason, Result: a.Result}.Payload()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := command.ParseFact(b); err != nil && a.State != command.Queued {
			t.Fatal(err)
		}
	})
}
