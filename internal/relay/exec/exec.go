// Package exec runs commands in sandboxes over relays: on an exec channel where the supervisor offers it, over
// one SSH connection a session where it does not. It validates nothing; its caller decided that the command may
// run.
package exec

import (
	"context"
	"errors"
	"time"

	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay"
)

// SessionBudget is how long a call waits for the supervisor's session, as in the reference gateways.
const SessionBudget = 15 * time.Second

// TimeoutExitCode is reported for a command that ran into its timeout, as timeout(1) does.
const TimeoutExitCode = 124

// Request is one command. Command has at least one element.
type Request struct {
	SandboxID   string
	Command     []string
	Workdir     string
	Environment map[string]string
	// Stdin is sent whole, then closed. Input, if set, follows it and is closed by its sender.
	Stdin []byte
	// Input delivers what an interactive caller sends; nil for calls without one.
	Input <-chan Input
	TTY   bool
	Cols  uint32
	Rows  uint32
	// Timeout ends the command; 0 means none.
	Timeout time.Duration
}

// Input is one message of an interactive caller.
type Input struct {
	Data   []byte
	Resize bool
	Cols   uint32
	Rows   uint32
}

// Sink receives what the command prints. Data is only valid during the call. An error ends the command.
type Sink interface {
	Stdout(data []byte) error
	Stderr(data []byte) error
}

// Runner runs commands over a registry's relays.
type Runner struct {
	relays *relay.Registry
}

// NewRunner returns a Runner.
func NewRunner(relays *relay.Registry) *Runner { return &Runner{relays: relays} }

var errTimeout = errors.New("command timeout")

// Run runs the command and returns its exit code: 128 plus the signal's number after a signal, TimeoutExitCode
// after Timeout. When ctx ends, or sink fails, the command is ended too where the supervisor allows it.
func (r *Runner) Run(ctx context.Context, req Request, sink Sink) (int32, error) {
	wait, cancel := context.WithTimeout(ctx, SessionBudget)
	session, err := r.relays.Session(wait, req.SandboxID)
	cancel()
	if err != nil {
		return 0, err
	}
	run := ctx
	if req.Timeout > 0 {
		var stop context.CancelFunc
		run, stop = context.WithTimeoutCause(ctx, req.Timeout, errTimeout)
		defer stop()
	}
	var code int32
	if session.Can(execchannel.Capability) {
		code, err = runChannel(run, session, req, sink)
	} else {
		code, err = runSSH(run, session, req, sink)
	}
	if err != nil && errors.Is(context.Cause(run), errTimeout) {
		return TimeoutExitCode, nil
	}
	return code, err
}

func noExitStatus() error {
	return fault.New(fault.Unavailable, "EXEC_NO_EXIT_STATUS",
		"exec relay closed before the command reported an exit status").
		WithNext("the supervisor or the sandbox went away while the command ran; see the sandbox's status and logs")
}
