package fault

import (
	"path/filepath"
	"testing"
)

// TestCommandsKilled: cars that come and go obey a node that is killed again and
// again; nothing is done twice or late, and every command's end is the truth.
func TestCommandsKilled(t *testing.T) {
	obeyed(t, &CommandCampaign{Tacho: program(t), Dir: filepath.Join(t.TempDir(), "data"), Cars: 40, Commands: 1500, Rate: 100, Kills: 5, Seed: 3, Say: t.Logf})
}

// TestCommandsKilledByTurns is the same with a gateway and a projector apart.
func TestCommandsKilledByTurns(t *testing.T) {
	obeyed(t, &CommandCampaign{Tacho: program(t), Dir: filepath.Join(t.TempDir(), "data"), Apart: true, Cars: 20, Commands: 300, Rate: 60, Kills: 2, Seed: 5, Say: t.Logf})
}

func obeyed(t *testing.T, c *CommandCampaign) {
	t.Helper()
	v, err := c.Run(t.Context())
	if t.Log(v); err != nil || !v.Good() {
		t.Fatal(err)
	}
	if v.States["succeeded"] == 0 || v.States["expired"] == 0 {
		t.Error("the cars were never there, or always")
	}
}
