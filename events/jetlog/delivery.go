package jetlog

import (
	"fmt"
	"math"
	"time"
)

// metadata reads stream sequence, consumer sequence and arrival time from a delivery's reply
// subject, without the allocations of jetstream.Msg.Metadata:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]
func metadata(reply string) (seq, delivery uint64, at time.Time, err error) {
	var dots [12]int
	n := 0
	for i := 0; i < len(reply) && n < len(dots); i++ {
		if reply[i] == '.' {
			dots[n] = i
			n++
		}
	}
	field := 5
	if n >= 10 {
		field = 7
	}
	if n < field+3 {
		return 0, 0, at, fmt.Errorf("delivery %q: not a JetStream delivery", reply)
	}
	seq, ok := number(reply[dots[field-1]+1 : dots[field]])
	delivery, okDelivery := number(reply[dots[field]+1 : dots[field+1]])
	nanos, okNanos := number(reply[dots[field+1]+1 : dots[field+2]])
	if !ok || !okDelivery || !okNanos {
		return 0, 0, at, fmt.Errorf("delivery %q: not a JetStream delivery", reply)
	}
	return seq, delivery, time.Unix(0, int64(nanos)).UTC(), nil
}

// number reads decimal digits, of a number that an int64 could hold.
func number(s string) (n uint64, ok bool) {
	for i := 0; i < len(s); i++ {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = 10*n + uint64(d)
	}
	return n, s != "" && len(s) <= 19 && n <= math.MaxInt64
}
