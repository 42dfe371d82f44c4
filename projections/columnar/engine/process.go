package engine

import (
	"os/exec"
	"syscall"
)

// setProcessGroup keeps a terminal's Ctrl-C from the child: it is the parent's
// to stop, after all that writes to it.
func setProcessGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
