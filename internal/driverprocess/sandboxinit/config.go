//go:build linux

// Package sandboxinit is the first process of a sandbox: it gives the sandbox its view of the machine, starts
// the supervisor in it, keeps the supervisor's log within bounds, reaps what is orphaned, and lets no process
// outlive the supervisor. It is started by the process driver from the driver's own binary and knows nothing
// of gateways or of other sandboxes.
package sandboxinit

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Command is the first argument that turns the driver's binary into a sandbox's first process.
const Command = "sandbox-init"

// quitCommand ends at once with success; isolation probes run it in the supervisor's place.
const quitCommand = "sandbox-init-probe"

// Descriptors the driver hands over: the configuration is read to its end from one, and "started" is written
// to the other. If the driver dies before it has written all of the configuration, nothing is started.
const (
	ConfigFD = 3
	StatusFD = 4
)

// Started is what is written to StatusFD once the supervisor runs.
const Started = "started\n"

// KillSignal tells a sandbox's first process to kill all others and end; SIGTERM is passed to the supervisor.
const KillSignal = unix.SIGUSR1

// Names inside a sandbox's directory.
const (
	WorkDir   = "work"
	RunDir    = "run"
	TmpDir    = "tmp"
	LogFile   = "supervisor.log"
	StateFile = "init.json"
)

// Config says what to set up and start.
type Config struct {
	// Dir is the sandbox's directory on the host; it holds work, run and tmp, and init.json and the log are
	// written there.
	Dir string `json:"dir"`
	// Supervisor is the binary's path on the host.
	Supervisor string   `json:"supervisor"`
	Args       []string `json:"args,omitempty"`
	Env        []string `json:"env"`
	Hostname   string   `json:"hostname,omitempty"`
	// Mounts is set when this process has a mount namespace and a PID namespace of its own.
	Mounts bool `json:"mounts,omitempty"`
	// UTS is set when the host name may be changed.
	UTS bool `json:"uts,omitempty"`
	// Hide lists host paths that are covered in the sandbox's mount namespace.
	Hide []string `json:"hide,omitempty"`
	// User is the user namespace of the supervisor; nil leaves it with our own ids.
	User *UserMap `json:"user,omitempty"`
	// MaxProcesses is a resource limit on processes; 0 sets none. It counts per user namespace.
	MaxProcesses uint64 `json:"max_processes,omitempty"`
	// LogBytes bounds the log file; one older file of that size is kept.
	LogBytes int64 `json:"log_bytes"`
}

// UserMap maps the ids 0 to Size-1 of the sandbox to the ids from First as this process sees them.
type UserMap struct {
	First int `json:"first"`
	Size  int `json:"size"`
}

// State is what init.json says.
type State struct {
	// Phase is "running" or "exited".
	Phase string `json:"phase"`
	// Error says which step of the setup failed; then no supervisor ran.
	Error string `json:"error,omitempty"`
	// Code is the supervisor's exit code, or -1 if Signal ended it.
	Code   int    `json:"code,omitempty"`
	Signal string `json:"signal,omitempty"`
}

// Phases of a State.
const (
	PhaseRunning = "running"
	PhaseExited  = "exited"
)

// Paths are where the supervisor finds its things.
type Paths struct {
	Work, Run, Supervisor string
}

const mountedRoot = "/run/sallyport"

// PathsFor tells where the sandbox of directory dir has its things: in fixed places if it has mounts of its
// own, else where they are on the host.
func PathsFor(dir, supervisor string, mounts bool) Paths {
	if !mounts {
		return Paths{Work: filepath.Join(dir, WorkDir), Run: filepath.Join(dir, RunDir), Supervisor: supervisor}
	}
	work := filepath.Join(mountedRoot, WorkDir)
	if info, err := os.Stat("/home"); err == nil && info.IsDir() {
		work = "/home/sandbox"
	}
	return Paths{Work: work, Run: filepath.Join(mountedRoot, RunDir), Supervisor: filepath.Join(mountedRoot, "bin", "sallyport-supervisor")}
}

// ReadState reads init.json from a sandbox's directory.
func ReadState(dir string) (State, error) {
	var s State
	b, err := os.ReadFile(filepath.Join(dir, StateFile))
	if err != nil {
		return s, fmt.Errorf("read sandbox state: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("parse sandbox state: %w", err)
	}
	return s, nil
}

func writeState(root *os.Root, s State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode sandbox state: %w", err)
	}
	if err := root.WriteFile(StateFile+".new", b, 0o600); err != nil {
		return fmt.Errorf("write sandbox state: %w", err)
	}
	if err := root.Rename(StateFile+".new", StateFile); err != nil {
		return fmt.Errorf("replace sandbox state: %w", err)
	}
	return nil
}

// ProbeArgs are the arguments with which this binary takes the supervisor's place in a probe.
func ProbeArgs() []string { return []string{quitCommand} }

// readConfig reads the driver's whole message. The driver ends it with a newline, so that a message cut short
// by the driver's death is told from a complete one.
func readConfig(r io.Reader) (Config, error) {
	var c Config
	b, err := io.ReadAll(io.LimitReader(r, 4<<20))
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if len(b) == 0 || b[len(b)-1] != '\n' {
		return c, fmt.Errorf("read configuration: %w", io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("parse configuration: %w", err)
	}
	return c, nil
}

// Encode returns the message that readConfig reads.
func (c Config) Encode() ([]byte, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return append(b, '\n'), nil
}
