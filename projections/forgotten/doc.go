// Package forgotten is the ledger of what had to be forgotten: whose data, of
// which stretch of arrival times, who asked for it, and what was removed. It is
// a fold of control facts and says nothing of what the data were.
//
// Whoever brings data back from elsewhere (an import, a backup) or holds two
// copies against each other asks the ledger first.
package forgotten
