package schemas

// maxPayload is the largest payload that is decoded. Offsets into the columns
// of a batch have 32 bits, and a byte of protobuf can become maxNameBytes of
// text.
const maxPayload = 8 << 20

// maxSamples is how many samples one message may hold. Three bytes can be one,
// and a row takes the room of all its columns.
const maxSamples = 1 << 17

// A sink is told what becomes of each sample of a message.
type sink interface {
	good()                                        // the row before d.row is a sample
	bad(index int, e *DecodeError, sample []byte) // one is not; its row was undone
}

// samples reads one payload, sample by sample: a sample, or a batch of them.
// It returns how many samples there are; after an error the sink must forget
// what it was told.
func (d *decoder) samples(payload []byte, to sink) (int, *DecodeError) {
	if len(payload) > maxPayload {
		return 0, &DecodeError{Reason: TooLarge, Detail: "more than 8 MiB"}
	}
	if len(payload) == 0 {
		return 0, &DecodeError{Reason: Empty}
	}
	d.load(payload)
	if d.proto && payload[0] != '{' && payload[0] != '[' {
		return d.protoMessage(payload, to)
	}
	i := d.space(0)
	switch d.buf[i] {
	case '{':
		if list := d.envelope(i); list >= 0 {
			n, next := d.jsonBatch(payload, list, to)
			if next >= 0 {
				if next = d.space(next); d.buf[next] != '}' {
					if d.syntax(next); d.buf[next] == ',' {
						d.fail(next, Misplaced, "samples beside other fields")
					}
					next = -1
				} else {
					next = d.ended(next + 1)
				}
			}
			return d.outcome(n, next)
		}
		next := d.jsonSample(i)
		if next < 0 {
			d.undo()
			return 0, d.failure(0)
		}
		if next = d.ended(next); next < 0 {
			d.row--
			d.undo()
			return 0, d.failure(0)
		}
		to.good()
		return 1, nil
	case '[':
		n, next := d.jsonBatch(payload, i, to)
		if next >= 0 {
			next = d.ended(next)
		}
		return d.outcome(n, next)
	}
	d.syntax(i)
	return 0, d.failure(0)
}

// outcome turns the end of a batch into an answer.
func (d *decoder) outcome(n, next int) (int, *DecodeError) {
	if next < 0 {
		return 0, d.failure(n)
	}
	return n, nil
}

// ended checks that nothing but white space follows.
func (d *decoder) ended(i int) int {
	if i = d.space(i); i != d.end {
		return d.fail(i, NotJSON, "text after the end")
	}
	return i
}

// envelope looks for {"samples":[...]} at i and returns where the list is, -1 if
// it is something else. A schema with a field samples has no such form.
func (d *decoder) envelope(i int) int {
	const key = `"samples"`
	i = d.space(i + 1)
	if string(d.buf[i:min(i+len(key), len(d.buf))]) != key || d.plan.names["samples"] != nil {
		return -1
	}
	if i = d.space(i + len(key)); d.buf[i] != ':' {
		return -1
	}
	if i = d.space(i + 1); d.buf[i] != '[' {
		return -1
	}
	return i
}

// jsonBatch reads the array of samples at i and returns how many there are and
// where it ends.
func (d *decoder) jsonBatch(payload []byte, i int, to sink) (int, int) {
	if i = d.space(i + 1); d.buf[i] == ']' {
		return 0, d.fail(i, Empty, "batch without samples")
	}
	for n := 0; ; {
		if n == maxSamples {
			return n, d.fail(i, TooLarge, "more than 131072 samples")
		}
		start := i
		if i = d.jsonSample(start); i >= 0 {
			to.good()
		} else {
			d.undo()
			e := d.failure(n)
			if i = d.resync(start); i < 0 {
				return n, -1
			}
			to.bad(n, e, payload[start:i])
		}
		n++
		switch i = d.space(i); d.buf[i] {
		case ',':
			i = d.space(i + 1)
		case ']':
			return n, i + 1
		default:
			return n, d.syntax(i)
		}
	}
}

// resync finds the end of the bad sample at i, which only its siblings' sake
// asks for: text that is not JSON has no siblings.
func (d *decoder) resync(i int) int {
	d.lenient = true
	i = d.skip(i, 0)
	d.lenient = false
	return i
}

// protoMessage reads a protobuf payload: the root message, or samples under the
// batch tag.
func (d *decoder) protoMessage(payload []byte, to sink) (int, *DecodeError) {
	batch := uint64(d.root.batch)<<3 | bytesType
	first := uint64(d.buf[0])
	if first >= 0x80 {
		first, _ = d.key(0, d.end)
	}
	if d.root.batch == 0 || first != batch {
		if next := d.protoSample(0, d.end); next < 0 {
			d.undo()
			return 0, d.failure(0)
		}
		to.good()
		return 1, nil
	}
	n := 0
	for i := 0; i < d.end; n++ {
		key, next := d.key(i, d.end)
		if next < 0 {
			return 0, d.failure(n)
		}
		if n == maxSamples {
			d.fail(i, TooLarge, "more than 131072 samples")
			return 0, d.failure(n)
		}
		if key != batch {
			d.fail(i, Misplaced, "samples beside other fields")
			return 0, d.failure(n)
		}
		start, stop := d.span(next, d.end)
		if stop < 0 {
			return 0, d.failure(n)
		}
		if d.protoSample(start, stop) < 0 {
			d.undo()
			to.bad(n, d.failure(n), payload[start:stop])
		} else {
			to.good()
		}
		i = stop
	}
	return n, nil
}
