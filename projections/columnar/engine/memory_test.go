package engine

import "testing"

func TestMemory(t *testing.T) {
	if n := DefaultMemory(); n < 64<<20 || n > 4<<30 {
		t.Fatalf("%d bytes", n)
	}
	for info, want := range map[string]int64{
		"MemTotal:        2048 kB\nMemFree: 1 kB\n": 2 << 20,
		"MemFree: 1 kB\nMemTotal: 1024 kB":          1 << 20,
		"MemTotal: many kB\n":                       8 << 30,
		"":                                          8 << 30,
	} {
		if got := memTotal([]byte(info)); got != want {
			t.Errorf("%q: %d, want %d", info, got, want)
		}
	}
}
