// Package testdata carries the recorded drives into the programs that play them.
package testdata

import _ "embed"

// CapMetro is one day of positions of the city buses of Austin, Texas; see
// capmetro/README.md for its source and licence (MIT).
//
//go:embed capmetro/2016-02-07.csv
var CapMetro []byte
