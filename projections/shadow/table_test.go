package shadow

import (
	"encoding/json"
	"testing"
)

func TestTableRows(t *testing.T) {
	for _, test := range []struct{ fact, typ, want string }{
		{`{"version":3,"at":1700000000123,"by":"admin","clientToken":"t","desired":{"a":{"b/c":[1,2]},"d":null},"reported":{"x":"y"}}`, TypeUpdated,
			`[{"time":1700000000123,"shadow":"doors","version":3,"change":"updated","by":"admin","client_token":"t","section":"desired","path":"/a/b~1c","value":"[1,2]"},` +
				`{"time":1700000000123,"shadow":"doors","version":3,"change":"updated","by":"admin","client_token":"t","section":"desired","path":"/d"},` +
				`{"time":1700000000123,"shadow":"doors","version":3,"change":"updated","by":"admin","client_token":"t","section":"reported","path":"/x","value":"\"y\""}]`},
		{`{"version":3,"at":5,"by":"device","desired":null}`, TypeUpdated,
			`[{"time":5,"shadow":"doors","version":3,"change":"updated","by":"device","section":"desired","path":""}]`},
		{`{"version":3,"at":5,"by":"device","desired":{}}`, TypeUpdated, `[{"time":5,"shadow":"doors","version":3,"change":"updated","by":"device"}]`},
		{`{"version":3,"at":5,"by":"device"}`, TypeDeleted, `[{"time":5,"shadow":"doors","version":3,"change":"deleted","by":"device"}]`},
	} {
		got, err := TableRows("doors", test.typ, []byte(test.fact))
		if err != nil || string(got) != test.want || !json.Valid(got) {
			t.Errorf("%s\ngot  %s %v\nwant %s", test.fact, got, err, test.want)
		}
	}
	if _, err := TableRows("", "moved", []byte(`{}`)); err == nil {
		t.Error("an unknown fact has rows")
	}
}
