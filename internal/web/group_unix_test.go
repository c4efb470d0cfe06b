//go:build unix

package web_test

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the browser and its helpers into a process group, so that endGroup ends all of them.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func endGroup(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
