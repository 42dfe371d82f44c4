package shadow

import "cmp"

// A Context says when and by whom a decision is asked for; the decider has no
// clock of its own.
type Context struct {
	At     int64  // epoch milliseconds
	By     string // "device", or who asked
	Device string // the thing, for what a refusal says
	Limits Limits
}

// Decide turns an update into the fact to append, or refuses it.
//
// Errors: ErrVersionConflict when the request names another version than the
// document's; ErrTooLarge when the merged document is over the limit, however
// small the request.
func Decide(d Document, req *Request, c Context) (Fact, *Error) {
	d = d.remembered(c.At)
	if req.Version != nil && *req.Version != d.Version {
		return Fact{}, ErrVersionConflict
	}
	f := Fact{
		Type: TypeUpdated, Version: d.Version + 1, At: c.At, By: c.By,
		ClientToken: req.ClientToken, desired: req.desired, reported: req.reported,
	}
	if next := d.Evolve(f); next.size() > c.Limits.orAWS().Bytes && next.size() > d.size() {
		return Fact{}, ErrTooLarge
	}
	return f, nil
}

// DecideDelete turns a delete into the fact to append.
//
// Errors: ErrNoShadow; ErrVersionConflict as for Decide, version nil is any.
func DecideDelete(d Document, version *uint64, clientToken string, c Context) (Fact, *Error) {
	if !d.Exists {
		return Fact{}, ErrNoShadow(cmp.Or(d.Name, c.Device))
	}
	if version != nil && *version != d.Version {
		return Fact{}, ErrVersionConflict
	}
	return Fact{Type: TypeDeleted, Version: d.Version, At: c.At, By: c.By, ClientToken: clientToken}, nil
}

// Changes tells whether the fact would change a value of the document. AWS's
// topics count every update; the native API asks first and wakes nobody for
// nothing.
func (d Document) Changes(f Fact) bool {
	next := d.Evolve(f)
	return next.Exists != d.Exists || !sameValues(next.desired, d.desired) || !sameValues(next.reported, d.reported)
}

// Evolve returns the document after the fact. It accepts every fact: what was
// decided has happened.
func (d Document) Evolve(f Fact) Document {
	switch f.Type {
	case TypeDeleted:
		return Document{Name: d.Name, Version: f.Version, At: f.At}
	case TypeRestated:
		return Document{Name: d.Name, Version: f.Version, Exists: true, At: f.At, desired: f.desired, reported: f.reported}
	}
	d = d.remembered(f.At)
	next := Document{Name: d.Name, Version: f.Version, Exists: true, At: f.At, desired: d.desired, reported: d.reported}
	if f.desired != nil {
		next.desired = merge(d.desired, f.desired, f.At/1000)
	}
	if f.reported != nil {
		next.reported = merge(d.reported, f.reported, f.At/1000)
	}
	return next
}

// remembered forgets the version of a shadow that was deleted too long ago.
func (d Document) remembered(now int64) Document {
	if !d.Exists && now-d.At > versionSurvives.Milliseconds() {
		d.Version = 0
	}
	return d
}
