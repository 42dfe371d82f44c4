package events

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	c := Cursors{
		256: {Position: Position{Epoch: 1, Partition: 256, Seq: 9}, ID: "a_b-C"},
		0:   {Position: Position{Epoch: 1}},
		3:   {Position: Position{Epoch: 4294967295, Partition: 3, Seq: 18446744073709551615}},
	}
	const want = "1.0.0,4294967295.3.18446744073709551615,1.256.9.a_b-C"
	if got := c.Token(); got != want {
		t.Errorf("token %s, want %s", got, want)
	}
	back, err := ParseCursors(want)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("parsed %v, %v", back, err)
	}
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("1.%d.1", i)
	}
	for _, bad := range []string{"", ",", "1", "1.2", "1.2.", "a.0.1", "1.0.1,", "1.0.1,1.0.2", "1.0.1.", "1.0.1.a b", "1.0.1.a.b", "-1.0.1", "1.65536.1", "1.0.18446744073709551616", strings.Join(many, ",")} {
		if c, err := ParseCursors(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.40q: %v, %v", bad, c, err)
		}
	}
}

// FuzzParseCursors: whatever is taken for a token names the same again.
func FuzzParseCursors(f *testing.F) {
	for _, seed := range []string{"1.0.42", "1.0.42.Zk2", "1.0.1,1.256.7.x", "..", "0.0.0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := ParseCursors(token)
		if err != nil {
			return
		}
		if back, err := ParseCursors(c.Token()); err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%q: %v, then %v, %v", token, c, back, err)
		}
	})
}
