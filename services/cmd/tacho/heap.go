package main

// ballastBytes is the size of the ballast.
const ballastBytes = 64 << 20

// ballast returns memory that is never touched, so that it takes no room, but counts as part of the heap as long as it is
// kept: it has a small heap collected less often. The runtime collects when a heap has doubled, and what lives in a node
// that takes messages may be 20 MB, which are allocated anew 25 times a second: a tenth of its CPU time. With the ballast
// it waits for 64 MB more. A percentage (GOGC) would do that as well, but multiply large heaps, too.
func ballast() []byte { return make([]byte, ballastBytes) }
