package schemas

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A Registry holds every version of every schema, in memory. It is safe for
// all goroutines. Whoever fills it in the same order gets the same versions.
type Registry struct {
	mu       sync.RWMutex
	versions map[string][]*Schema // oldest first
}

// NewRegistry returns an empty Registry.
func NewRegistry() *Registry {
	return &Registry{versions: map[string][]*Schema{}}
}

// Add compiles a source and makes it the current version of name, counting
// from 1. A source that is identical to the current one changes nothing.
//
// Errors: *InvalidError, *IncompatibleError, or that of ValidName.
func (r *Registry) Add(name string, src Source) (s *Schema, changed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, changed, err = r.next(name, src)
	if err != nil || !changed {
		return s, false, err
	}
	r.versions[name] = append(r.versions[name], s)
	return s, true, nil
}

// Check answers what Add would, without adding: the schema as it would be, or
// the same errors.
func (r *Registry) Check(name string, src Source) (*Schema, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, _, err := r.next(name, src)
	return s, err
}

// next is the schema that src makes of name now.
func (r *Registry) next(name string, src Source) (s *Schema, changed bool, err error) {
	if err := ValidName(name); err != nil {
		return nil, false, fmt.Errorf("add schema: %w", err)
	}
	current := last(r.versions[name])
	if current != nil && current.source == src {
		return current, false, nil
	}
	root, err := compile(name, src)
	if err != nil {
		return nil, false, err
	}
	version := uint32(1)
	if current != nil {
		version = current.version + 1
		if reasons := follow(current, root, src.Format); len(reasons) > 0 {
			return nil, false, &IncompatibleError{Name: name, Reasons: reasons}
		}
	}
	s, err = newSchema(name, version, src, root)
	return s, err == nil, err
}

// Current returns the newest version of name.
func (r *Registry) Current(name string) (*Schema, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := last(r.versions[name])
	return s, s != nil
}

// Version returns one version of name.
func (r *Registry) Version(name string, v uint32) (*Schema, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := r.versions[name]
	if v == 0 || int(v) > len(all) {
		return nil, false
	}
	return all[v-1], true
}

// All returns the current version of every schema, sorted by name.
func (r *Registry) All() []*Schema {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*Schema, 0, len(r.versions))
	for _, versions := range r.versions {
		all = append(all, last(versions))
	}
	slices.SortFunc(all, func(a, b *Schema) int { return strings.Compare(a.name, b.name) })
	return all
}

func last(versions []*Schema) *Schema {
	if len(versions) == 0 {
		return nil
	}
	return versions[len(versions)-1]
}
