// Package commands tells devices what to do and knows what became of it.
//
// The rules are package projections/command's. Here is what they need around
// them: the fold of all open commands, one queue of decisions a command that is
// appended at the expected position, the sender, the timers, and the devices'
// answers.
//
//	Queue ─► queued ─► sender: Send ─► "sent" is in the log ─► the bytes ─► PUBACK ─► delivered
//	                      ▲  │ another process was first             │ none
//	                      └──┴───────── until_deadline ◄─────────────┘
//
// Any number of processes may run this over one log. Who may write a command to
// its device is decided by the one "sent" that the log takes at the expected
// position. Nothing here is kept anywhere but in the log.
package commands
