package query

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/tachograph/tachograph/services/api/problem"
)

// ClickHouse's codes of exceptions that are not simply the statement's fault
// (src/Common/ErrorCodes.cpp).
var (
	forbidden = codes(76, 107, 164, 291, 358, 446, 452, 481, 497, 712)
	timedOut  = codes(159, 160)
	rows      = codes(158, 396)
	busy      = codes(201, 202)
	refused   = codes(192, 193, 194, 195, 516)
	cancelled = codes(209, 210, 236, 394) // the server is ending, or somebody killed it
	defects   = codes(40, 49, 74, 75, 246, 1001, 1002)
)

const (
	memoryExceeded = 241
	noSpace        = 243
	filesClosed1   = 76
	filesClosed2   = 107
	foreign        = 1000 // an exception of a library's
)

func codes(all ...int) map[int]bool {
	set := map[int]bool{}
	for _, code := range all {
		set[code] = true
	}
	return set
}

var (
	exceptionForm = regexp.MustCompile(`^\s*Code: (\d+)\. \w+::\w+: `)
	nameForm      = regexp.MustCompile(`\.?\s*\(([A-Z0-9_]+)\) \(version `)
	foreignForm   = regexp.MustCompile(`^\s*\w+::Exception\. Code: (\d+)`)
	// What the server tells of its own insides after the message.
	insides  = regexp.MustCompile(`(?s):? \(?([wW]hile (executing|reading|processing)|in query:|query_id:|for user ).*$|\.? Stack trace.*$`)
	position = regexp.MustCompile(`failed at position (\d+)`)
)

// mostMessage is as much of a message as is passed on; a syntax error lists all
// that could have stood there.
const mostMessage = 1000

// refusal makes a problem of what ClickHouse says of a statement.
func (a *Answer) refusal(text string) error {
	e := parseException(text)
	details := map[string]any{}
	if e.name != "" {
		details["clickhouse"] = map[string]any{"code": e.code, "name": e.name}
	}
	log := a.client.cfg.Logger.With("query", a.ID, "error", text)
	switch {
	case e.code == filesClosed1 || e.code == filesClosed2:
		return problem.New(problem.QueryForbidden, "query: files cannot be read", details)
	case forbidden[e.code]:
		return problem.New(problem.QueryForbidden, "query: "+e.message, details)
	case timedOut[e.code]:
		return a.client.cfg.Limits.time()
	case e.code == noSpace, rows[e.code] && strings.Contains(e.message, "temporary"):
		return exceeded("disk", "it needs more of the disk than it may have: "+e.message, details)
	case rows[e.code]:
		return exceeded("rows", "its answer has too many rows: "+e.message, details)
	case e.code == memoryExceeded && strings.Contains(e.message, "(total)"):
		return problem.New(problem.Unavailable, "query: ClickHouse has no memory to spare at the moment", details)
	case e.code == memoryExceeded:
		return exceeded("memory", "it needs more memory than it may have: "+e.message, details)
	case busy[e.code]:
		return problem.New(problem.TooManyRequests, "query: too many statements are at work in ClickHouse", details)
	case cancelled[e.code]:
		return problem.New(problem.Unavailable, "query: ClickHouse ended the statement", details)
	case refused[e.code]:
		a.client.checked.Store(false)
		log.Error("ClickHouse refuses the user that queries it")
		return problem.New(problem.Unavailable, "query: ClickHouse refuses the user that queries it; the log says why", nil)
	case e.code == foreign:
		log.Error("a statement failed within ClickHouse")
		return problem.New(problem.InvalidQuery, "query: ClickHouse could not do what the statement asks for", details)
	case e.code == 0 || defects[e.code]:
		log.Error("a statement failed within ClickHouse")
		return problem.New(problem.Internal, "query: a failure within ClickHouse; the log has it under "+a.ID, map[string]any{"query": a.ID})
	}
	if at := position.FindStringSubmatch(e.message); at != nil {
		if n, err := strconv.Atoi(at[1]); err == nil {
			line, column := place(a.statement, n)
			details["position"], details["line"], details["column"] = n, line, column
		}
	}
	return problem.New(problem.InvalidQuery, "query: "+e.message, details)
}

type exception struct {
	code    int // 0: the text has not the form of an exception
	name    string
	message string
}

func parseException(text string) exception {
	m := exceptionForm.FindStringSubmatchIndex(text)
	if m == nil {
		if m := foreignForm.FindStringSubmatch(text); m != nil {
			code, _ := strconv.Atoi(m[1]) // digits
			return exception{code: code}
		}
		return exception{}
	}
	e := exception{message: text[m[1]:]}
	e.code, _ = strconv.Atoi(text[m[2]:m[3]]) // digits
	if all := nameForm.FindAllStringSubmatchIndex(e.message, -1); all != nil {
		last := all[len(all)-1] // the statement may hold the same form
		e.name, e.message = e.message[last[2]:last[3]], e.message[:last[0]]
	}
	e.message = insides.ReplaceAllString(e.message, "")
	if len(e.message) > mostMessage {
		e.message = strings.ToValidUTF8(e.message[:mostMessage], "") + " …"
	}
	return e
}

// place returns line and column, from 1, of a position of ClickHouse's: bytes,
// from 1.
func place(text string, position int) (line, column int) {
	before := text[:max(0, min(position-1, len(text)))]
	return 1 + strings.Count(before, "\n"), len(before) - strings.LastIndexByte(before, '\n')
}
