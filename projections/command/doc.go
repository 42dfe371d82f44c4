// Package command is the life of a command: everything a device was told to
// do, in one truthful state.
//
// It is pure. Each method of Command that decides takes what happened and when,
// and answers the fact to append or a named refusal; Evolve folds facts.
// Nothing here reads a clock, a socket or the log.
//
//	queued ─► sent ─► delivered ─► accepted ─► running ─► succeeded | failed | rejected | cancelled
//	   │        └──────────┴───────────┴──────────┴────► timed_out ─► (a late answer wins)
//	   └─► expired | cancelled
//
// A device may skip states. expired means that the command was never sent;
// timed_out that it was and that nobody knows what came of it.
package command
