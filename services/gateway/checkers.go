package gateway

import (
	"sync"

	"github.com/tachograph/tachograph/schemas"
)

// checkers pools the checkers of every schema version in use.
type checkers struct{ pools sync.Map } // *schemas.Schema to *sync.Pool

// check validates a payload against a schema.
func (c *checkers) check(s *schemas.Schema, payload []byte) (schemas.Info, error) {
	pool, ok := c.pools.Load(s)
	if !ok {
		pool, _ = c.pools.LoadOrStore(s, &sync.Pool{New: func() any { return s.NewChecker() }})
	}
	checker := pool.(*sync.Pool).Get().(*schemas.Checker)
	info, err := checker.Check(payload)
	pool.(*sync.Pool).Put(checker)
	return info, err
}
