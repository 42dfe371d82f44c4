package schemas_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
)

// TestRecycler checks that memory is used again, that nothing of an earlier
// record shines through, and that all goes back in the end.
func TestRecycler(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	shared := schemas.NewRecycler(mem, 64<<20)
	s := everything(t, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	full := `{"time":5,"f64":1,"f32":2,"i32":3,"s32":4,"u32":5,"i64":6,"u64":7,"flag":true,"text":"x","raw":"aGk=","gear":"DRIVE","best_gear":"DRIVE",` +
		`"engine":{"rpm":1,"gear":"DRIVE","codes":[1],"at":1},"list":[1],"names":["a"],"readings":{"a":1},"engines":[{}],"free":{},"third":1,"stamp":1,"last":true,"new":1}`
	for range 3 {
		b := s.NewBatch(shared)
		for range 500 {
			if _, _, err := b.Append([]byte(full), arrival); err != nil {
				t.Fatal(err)
			}
		}
		kept := b.Record()
		b.Append([]byte(`{}`), arrival)
		b.Release()
		kept.Release()

		b = s.NewBatch(shared)
		for range 500 {
			b.Append([]byte(`{}`), arrival)
		}
		rec := b.Record()
		for r, row := range rowsOf(rec) {
			want, _ := naiveRow([]byte(`{}`), protoWants, true)
			compareRows(t, row, want)
			if t.Failed() {
				t.Fatal("row", r)
			}
		}
		rec.Release()
		b.Release()
	}
	shared.Close()
	shared.Close()
}

// TestRecyclerTexts: texts of any length stay what they were while their column
// grows in blocks that have more room than was asked for.
func TestRecyclerTexts(t *testing.T) {
	shared := schemas.NewRecycler(memory.NewGoAllocator(), 64<<20)
	defer shared.Close()
	s := everything(t, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	for size := 1; size < 2000; size += 37 {
		b := s.NewBatch(shared)
		text := func(row int) string { return strings.Repeat(string(rune('a'+row%26)), size+row%5) }
		const rows = 40
		for row := range rows {
			payload := fmt.Sprintf(`{"text":%q,"names":[%[1]q],"nobody":%[1]q}`, text(row))
			if n, bad, err := b.Append([]byte(payload), arrival); n != 1 || len(bad) > 0 || err != nil {
				t.Fatal(n, bad, err)
			}
		}
		rec := b.Record()
		for row := range rows {
			for name, want := range map[string]string{"text": text(row), "names": fmt.Sprintf("[%q]", text(row)), schemas.UnknownColumn: fmt.Sprintf(`{"nobody":%q}`, text(row))} {
				i := rec.Schema().FieldIndices(name)
				if got := rec.Column(i[0]).ValueStr(row); got != want {
					t.Fatalf("texts of %d bytes: row %d has %s %q, want %q", size, row, name, got, want)
				}
			}
		}
		rec.Release()
		b.Release()
	}
}

// TestRecyclerTrim: what is used again and again stays, what is not goes back.
func TestRecyclerTrim(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	r := schemas.NewRecycler(mem, 1<<20)
	use := func(sizes ...int) {
		var blocks [][]byte
		for _, n := range sizes {
			blocks = append(blocks, r.Allocate(n))
		}
		for _, b := range blocks {
			r.Free(b)
		}
	}
	use(1<<16, 1<<16, 1<<12)
	r.Trim() // the busy time
	for range 3 {
		use(1<<12, 1<<16)
	}
	if r.Trim(); mem.CurrentAlloc() != 1<<16+1<<12 {
		t.Errorf("%d bytes are kept, the load needs %d", mem.CurrentAlloc(), 1<<16+1<<12)
	}
	r.Trim()
	if r.Trim(); mem.CurrentAlloc() != 0 {
		t.Errorf("%d bytes are kept when nothing is used", mem.CurrentAlloc())
	}
	use(2 << 20)
	mem.AssertSize(t, 0) // more than it may keep
}
