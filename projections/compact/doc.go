// Package compact says which of the control facts up to a position folds still
// need: what it hands out is the base of a log that is compacted (see events.Base).
//
// Of a kind that it does not know every fact stays. Of those that come in numbers
// the rest goes only once it was seen that the fold gives the same without.
package compact
