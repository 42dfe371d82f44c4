package query

import (
	"fmt"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
)

// Limits of one statement. Time, Bytes, Length and AtOnce are held here, for
// every server; Rows and Memory are the server's to hold, by the profile of the
// user, and stand here to be told.
type Limits struct {
	Time   time.Duration // from the question to the answer's last byte taken; 0 is 5 minutes
	Bytes  int64         // of the answer; 0 is 4 GiB
	Length int           // of the statement, bytes; 0 is 256 KiB
	AtOnce int           // statements at work side by side; 0 is 8
}

func (l *Limits) complete() {
	if l.Time == 0 {
		l.Time = 5 * time.Minute
	}
	if l.Bytes == 0 {
		l.Bytes = 4 << 30
	}
	if l.Length == 0 {
		l.Length = 256 << 10
	}
	if l.AtOnce == 0 {
		l.AtOnce = 8
	}
}

func (l Limits) time() error {
	return exceeded("time", fmt.Sprintf("it takes longer than %s", l.Time), map[string]any{"most": l.Time.String()})
}

func (l Limits) bytes() error {
	return exceeded("bytes", fmt.Sprintf("its answer has more than %d bytes", l.Bytes), map[string]any{"most": l.Bytes})
}

// exceeded tells which limit a statement hit; details may be nil.
func exceeded(limit, what string, details map[string]any) *problem.Problem {
	if details == nil {
		details = map[string]any{}
	}
	details["limit"] = limit
	return problem.New(problem.QueryLimit, "query: "+what, details)
}
