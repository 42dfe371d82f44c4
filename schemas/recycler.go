package schemas

import (
	"math/bits"
	"sync"

	"github.com/apache/arrow/go/v15/arrow/memory"
)

// ownIdle is how much memory a Batch keeps for its next record.
const ownIdle = 64 << 20

// A Recycler hands the memory of released records out again. Without it every
// record is built in pages that the kernel has to clear first, which takes
// longer than the decoding. Blocks are powers of two and are not cleared.
//
// A Batch has one of its own; who makes a Batch for every block hands the same
// one to all. Records are released wherever they end, so it is safe for all
// goroutines.
type Recycler struct {
	mem  memory.Allocator
	keep int // bytes that may be idle

	mu     sync.Mutex
	free   [64][][]byte // by the power of two of their size
	idle   int          // bytes in free
	low    int          // the least that was idle since Trim
	closed bool
}

// NewRecycler returns a Recycler that takes its memory from mem and keeps as many
// bytes at most for what comes next.
func NewRecycler(mem memory.Allocator, keep int) *Recycler { return &Recycler{mem: mem, keep: keep} }

// Allocate implements memory.Allocator.
func (r *Recycler) Allocate(size int) []byte {
	class := bits.Len(uint(max(size, 64) - 1))
	r.mu.Lock()
	if blocks := r.free[class]; len(blocks) > 0 {
		block := blocks[len(blocks)-1]
		r.free[class] = blocks[:len(blocks)-1]
		r.idle -= len(block)
		r.low = min(r.low, r.idle)
		r.mu.Unlock()
		return block[:size]
	}
	r.mu.Unlock()
	return r.mem.Allocate(1 << class)[: size : 1<<class]
}

// Reallocate implements memory.Allocator.
func (r *Recycler) Reallocate(size int, b []byte) []byte {
	if size <= cap(b) {
		return b[:size]
	}
	larger := r.Allocate(size)
	copy(larger, b)
	r.Free(b)
	return larger
}

// Free implements memory.Allocator.
func (r *Recycler) Free(b []byte) {
	b = b[:cap(b)]
	if len(b) == 0 {
		return
	}
	class := bits.Len(uint(len(b) - 1))
	r.mu.Lock()
	if !r.closed && r.idle+len(b) <= r.keep {
		r.free[class] = append(r.free[class], b)
		r.idle += len(b)
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	r.mem.Free(b)
}

// Trim gives back about as much as was idle all the time since the last Trim, so
// that who calls it now and then keeps what the present load needs.
func (r *Recycler) Trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	surplus := r.low
	for class := len(r.free) - 1; class >= 0; class-- {
		blocks := r.free[class]
		for len(blocks) > 0 && len(blocks[0]) <= surplus {
			r.mem.Free(blocks[0])
			surplus -= len(blocks[0])
			r.idle -= len(blocks[0])
			blocks = blocks[1:]
		}
		r.free[class] = append([][]byte(nil), blocks...)
	}
	r.low = r.idle
}

// Close gives all idle memory back. What is still in use goes back when it is
// freed. It is idempotent.
func (r *Recycler) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for class, blocks := range r.free {
		for _, b := range blocks {
			r.mem.Free(b)
		}
		r.free[class] = nil
	}
	r.idle, r.low = 0, 0
}
