package jetlog

import (
	"fmt"
	"strconv"
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
	if seq, err = strconv.ParseUint(reply[dots[field-1]+1:dots[field]], 10, 64); err != nil {
		return 0, 0, at, fmt.Errorf("delivery %q: %w", reply, err)
	}
	if delivery, err = strconv.ParseUint(reply[dots[field]+1:dots[field+1]], 10, 64); err != nil {
		return 0, 0, at, fmt.Errorf("delivery %q: %w", reply, err)
	}
	nanos, err := strconv.ParseInt(reply[dots[field+1]+1:dots[field+2]], 10, 64)
	if err != nil {
		return 0, 0, at, fmt.Errorf("delivery %q: %w", reply, err)
	}
	return seq, delivery, time.Unix(0, nanos).UTC(), nil
}
