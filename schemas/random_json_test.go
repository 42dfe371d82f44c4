package schemas_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/schemas"
)

// pieces are values good for one kind and bad for others.
var pieces = []string{
	"null", "true", "false", "0", "-0", "1", "-1", "250", "251", "255", "256", "1.5", "-1.5e3", "1e2", "1e-2", "0.1", "123456789.123456789",
	"2147483647", "2147483648", "-2147483648", "-2147483649", "4294967295", "4294967296", "9007199254740993", "9223372036854775807", "9223372036854775808",
	"-9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616", "3.4028235e38", "3.4028236e38", "1e308", "1e309", "5e-324", "1e-400",
	"16777217", "0.30000001192092896", "1.00000017881393432617187499", "8.5899345e9", "1700000000", "1700000000123", "1700000000.5", "0.9999999999999999999999",
	`""`, `"a"`, `"on"`, `"off"`, `"DRIVE"`, `"PARK"`, `"1"`, `"-5"`, `"1.25"`, `"1e3"`, `"x1"`, `"2020-02-29T12:34:56.789Z"`, `"2021-02-29T00:00:00Z"`, `"1900-01-01T00:00:00Z"`,
	`"1899-12-31T23:59:59Z"`, `"2299-12-31T23:59:59.999999Z"`, `"2300-01-01T00:00:00Z"`, `"2020-01-01T00:00:00+05:30"`, `"2020-01-01 00:00:00Z"`, `"1.5s"`, `"-3s"`, `"aGk="`, `"_-8="`, `"\u00e9\n"`, `"日本"`, `"\ud83d\ude00"`, `"\ud83d"`,
	`{}`, `[]`, `{"a":1}`, `{"a":1,"a":2}`, `{"rpm":1.5}`, `{"rpm":"x"}`, `{"rpm":1,"gear":"DRIVE","codes":[1,2],"on":true,"new":[{}]}`, `[1,2]`, `["a","b"]`, `[1,"a"]`, `[null]`, `{"1":"DRIVE"}`, `{"x":{"y":{"z":[]}}}`,
}

// TestRandomJSON holds the decoder against the oracle for samples put together
// from fields and values at random.
func TestRandomJSON(t *testing.T) {
	fromProto := everything(t, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	fromJSON := everything(t, schemas.Source{Format: schemas.FormatJSONSchema, Text: everythingJSON})
	for seed := range seeds(6000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		wants, s := jsonWants, fromJSON
		if seed%2 == 0 {
			wants, s = protoWants, fromProto
		}
		names := slices.Sorted(maps.Keys(wants))
		names = append(names, "other_name", "samples", "bestGear", `a\u0062c`)
		space := func() string { return []string{"", "", "", " ", "\n\t"}[rng.IntN(5)] }
		var samples []string
		for range 1 + rng.IntN(3) {
			members := []string{`"id"` + space() + `:"x"`}
			if seed%2 == 0 {
				members = nil
			}
			for range rng.IntN(5) {
				members = append(members, space()+`"`+names[rng.IntN(len(names))]+`"`+space()+":"+space()+pieces[rng.IntN(len(pieces))]+space())
			}
			samples = append(samples, "{"+strings.Join(members, ",")+"}")
		}
		payload := samples[0]
		switch rng.IntN(4) {
		case 0:
			payload = "[" + strings.Join(samples, space()+","+space()) + space() + "]"
		case 1:
			payload = `{"samples":` + space() + "[" + strings.Join(samples, ",") + "]}"
		}
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { checkJSON(t, s, wants, []byte(payload), seed%2 == 0) })
		if t.Failed() {
			t.Logf("payload: %s", payload)
			return
		}
	}
}
