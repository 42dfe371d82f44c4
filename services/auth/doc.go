// Package auth knows who may speak: the devices of the fleet with their tokens,
// the administrator, and the analysts, who share one.
//
// The directory of devices is a fold of the log's control partition, so every
// process of a cluster comes to the same answer, and a removed device is gone
// wherever it is connected:
//
//	registry/{device}    added, removed
//	credential/{device}  issued {"sha256": hex of the token}, revoked
//
// A token is shown once, when it is issued; only its SHA-256 is kept. A slow
// password hash would add nothing: tokens are 256 random bits, and what cannot
// be guessed cannot be guessed faster.
package auth
