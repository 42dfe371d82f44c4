package shadow

import (
	"bytes"
	"errors"
	"io"
	"sort"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits bound what a shadow may hold. The zero value stands for AWS's own.
type Limits struct {
	Bytes       int // of desired and reported together after the merge, without metadata; 8192
	Depth       int // levels of nesting below desired and reported; 6
	ClientToken int // bytes; 64
	Name        int // bytes of a named shadow's name; 64
}

func (l Limits) orAWS() Limits {
	if l.Bytes == 0 {
		l.Bytes = 8192
	}
	if l.Depth == 0 {
		l.Depth = 6
	}
	if l.ClientToken == 0 {
		l.ClientToken = 64
	}
	if l.Name == 0 {
		l.Name = 64
	}
	return l
}

// A Request is an update that was asked for, checked as far as that can be
// done without the document.
type Request struct {
	ClientToken string
	Version     *uint64 // the version the document must have; nil: any

	// nil: not in the request; a null leaf: the section is to be removed.
	desired, reported *node
}

// ParseRequest reads an update request document. The request is never nil: of
// a refused one it holds the client's token where there was a good one, to be
// echoed in the error.
func ParseRequest(body []byte, limits Limits) (*Request, *Error) {
	limits = limits.orAWS()
	req := &Request{}
	if !utf8.Valid(body) {
		return req, ErrUnsupportedEncoding
	}
	// state and desired are two levels of their own above those that count.
	root, perr := parse(body, limits.Depth+2)
	if perr == errDepth {
		return req, errTooDeep(limits.Depth)
	}
	if perr != nil || !root.isObject() {
		return req, ErrInvalidJSON
	}
	if token := root.get("clientToken"); token != nil {
		text, ok := stringOf(token)
		if !ok || len(text) > limits.ClientToken {
			return req, ErrInvalidClientToken
		}
		req.ClientToken = text
	}
	if version := root.get("version"); version != nil {
		v, err := strconv.ParseUint(string(version.value), 10, 64)
		if err != nil {
			return req, ErrInvalidVersion
		}
		req.Version = &v
	}
	state := root.get("state")
	switch {
	case state == nil:
		return req, ErrMissingState
	case state.isNull(): // AWS: empties the shadow and moves its version on
		req.desired, req.reported = null, null
		return req, nil
	case !state.isObject():
		return req, ErrStateNotObject
	}
	for _, m := range state.members {
		switch m.name {
		case "desired":
			if !m.node.isObject() && !m.node.isNull() {
				return req, ErrDesiredNotObject
			}
			req.desired = m.node
		case "reported":
			if !m.node.isObject() && !m.node.isNull() {
				return req, ErrReportedNotObject
			}
			req.reported = m.node
		default:
			return req, ErrInvalidNode
		}
	}
	if hasArrayWithNull(req.desired) || hasArrayWithNull(req.reported) {
		return req, ErrInvalidNode
	}
	return req, nil
}

// TokenOf returns the client's token in the payload of a get or a delete, whose
// content is ignored otherwise: AWS's SDKs tell by it which answer is theirs.
// Without a good one it is empty.
func TokenOf(payload []byte, limits Limits) string {
	if len(payload) == 0 {
		return ""
	}
	root, err := parse(payload, limits.orAWS().Depth+2)
	if err != nil || !root.isObject() {
		return ""
	}
	token := root.get("clientToken")
	if token == nil {
		return ""
	}
	text, ok := stringOf(token)
	if !ok || len(text) > limits.orAWS().ClientToken {
		return ""
	}
	return text
}

func (n *node) get(name string) *node {
	if i, ok := n.find(name); ok {
		return n.members[i].node
	}
	return nil
}

func stringOf(n *node) (string, bool) {
	if n.isObject() || n.value.Kind() != '"' {
		return "", false
	}
	b, err := jsontext.AppendUnquote(nil, n.value)
	return string(b), err == nil
}

var (
	errDepth    = errors.New("nested too deep")
	errTrailing = errors.New("more than one value")
)

// parse reads one JSON value into a tree: duplicate keys are refused, strings
// are normalised, numbers stay as they were written.
func parse(body []byte, maxDepth int) (*node, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	n, err := parseValue(dec, maxDepth)
	if err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errTrailing
	}
	return n, nil
}

func parseValue(dec *jsontext.Decoder, depth int) (*node, error) {
	if dec.PeekKind() != '{' {
		raw, err := parseLeaf(dec, nil, depth)
		return &node{value: raw}, err
	}
	if depth < 0 {
		return nil, errDepth
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	n := &node{}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		child, err := parseValue(dec, depth-1)
		if err != nil {
			return nil, err
		}
		n.members = append(n.members, member{key, child})
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	sort.Slice(n.members, func(i, j int) bool { return n.members[i].name < n.members[j].name })
	return n, nil
}

// parseLeaf appends a scalar or a whole array in its normal form.
func parseLeaf(dec *jsontext.Decoder, b []byte, depth int) ([]byte, error) {
	kind := dec.PeekKind()
	if kind != '[' && kind != '{' {
		tok, err := dec.ReadToken()
		switch {
		case err != nil:
			return nil, err
		case kind == '"':
			return appendString(b, tok.String()), nil
		default:
			return append(b, tok.String()...), nil // a number's String is its text, unchanged
		}
	}
	if depth < 0 {
		return nil, errDepth
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	b = append(b, byte(kind))
	for first := true; dec.PeekKind() != kind+2; first = false { // the closing bracket, see appendElementMetadata
		if !first {
			b = append(b, ',')
		}
		var err error
		if kind == '{' {
			if b, err = parseLeaf(dec, b, depth); err != nil {
				return nil, err
			}
			b = append(b, ':')
		}
		if b, err = parseLeaf(dec, b, depth-1); err != nil {
			return nil, err
		}
	}
	_, err := dec.ReadToken()
	return append(b, byte(kind)+2), err
}

// hasArrayWithNull finds what AWS refuses: null in an array, at any depth.
func hasArrayWithNull(n *node) bool {
	if n == nil {
		return false
	}
	if n.isObject() {
		for _, m := range n.members {
			if hasArrayWithNull(m.node) {
				return true
			}
		}
		return false
	}
	if n.value[0] != '[' {
		return false
	}
	dec := jsontext.NewDecoder(bytes.NewReader(n.value))
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return false
		}
		if tok.Kind() == 'n' {
			return true
		}
	}
}
