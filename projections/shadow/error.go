package shadow

import (
	"fmt"
	"strconv"
)

// An Error is a refusal with AWS's code (an HTTP status) and message.
type Error struct {
	Code    int
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("shadow: %d: %s", e.Code, e.Message) }

// AWS's refusals (AWS IoT Developer Guide, "Device Shadow error messages").
var (
	ErrInvalidJSON         = &Error{400, "Invalid JSON"}
	ErrMissingState        = &Error{400, "Missing required node: state"}
	ErrStateNotObject      = &Error{400, "State node must be an object"}
	ErrDesiredNotObject    = &Error{400, "Desired node must be an object"}
	ErrReportedNotObject   = &Error{400, "Reported node must be an object"}
	ErrInvalidVersion      = &Error{400, "Invalid version"}
	ErrInvalidClientToken  = &Error{400, "Invalid clientToken"}
	ErrInvalidNode         = &Error{400, "State contains an invalid node"}
	ErrVersionConflict     = &Error{409, "Version conflict"}
	ErrTooLarge            = &Error{413, "The payload exceeds the maximum size allowed"}
	ErrUnsupportedEncoding = &Error{415, "Unsupported documented encoding; supported encoding is UTF-8"}
	ErrTooManyRequests     = &Error{429, "Too Many Requests"}
	ErrInternal            = &Error{500, "Internal service failure"}
)

func errTooDeep(limit int) *Error {
	return &Error{400, "JSON contains too many levels of nesting; maximum is " + strconv.Itoa(limit)}
}

// ErrNoShadow refuses a get or a delete of a shadow that does not exist. The
// classic one goes by its thing's name, as at AWS.
func ErrNoShadow(name string) *Error {
	return &Error{404, "No shadow exists with name: " + name}
}

// Render returns the error document; the client's token is left out when empty.
func (e *Error) Render(at int64, clientToken string) []byte {
	b := append([]byte(`{"code":`), strconv.Itoa(e.Code)...)
	b = append(b, `,"message":`...)
	b = appendString(b, e.Message)
	return appendTail(b, at, clientToken)
}

// appendTail closes a response document with its timestamp and token.
func appendTail(b []byte, at int64, clientToken string) []byte {
	b = append(b, `,"timestamp":`...)
	b = strconv.AppendInt(b, at, 10)
	if clientToken != "" {
		b = append(b, `,"clientToken":`...)
		b = appendString(b, clientToken)
	}
	return append(b, '}')
}
