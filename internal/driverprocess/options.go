//go:build linux

package driverprocess

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Isolation modes: use what works and report it, use none, or refuse to create a sandbox unless user, PID and
// mount namespaces and the asked-for limits all work.
const (
	IsolationAuto     = "auto"
	IsolationNone     = "none"
	IsolationRequired = "required"
)

// Options configures a Driver. StateDir, Supervisor, GatewayEndpoint and Logger are required.
type Options struct {
	// StateDir holds everything the driver keeps; it is made 0700 and used by one driver at a time.
	StateDir string
	// Supervisor is the path of the supervisor's binary.
	Supervisor string
	// GatewayEndpoint is what supervisors dial, http or https with host and port.
	GatewayEndpoint string
	// GatewayCA is a PEM file handed to supervisors to verify the gateway with; may be empty.
	GatewayCA string
	Isolation string
	// Hide lists further host paths that sandboxes with their own mounts do not see.
	Hide []string
	// ShutdownSandboxes stops the sandboxes when the driver closes; they run again when it is opened again.
	ShutdownSandboxes bool
	// MaxProcesses bounds the processes of a sandbox; 0 sets no bound.
	MaxProcesses int64
	// Grace is how long a supervisor has to end by itself when its sandbox is stopped.
	Grace   time.Duration
	Version string
	Logger  *slog.Logger
}

// Defaults of the options that have one.
const (
	DefaultMaxProcesses = 4096
	DefaultGrace        = 5 * time.Second
)

func (o *Options) complete() error {
	if o.Isolation == "" {
		o.Isolation = IsolationAuto
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	var errs []error
	if o.StateDir == "" {
		errs = append(errs, errors.New("--state-dir is required"))
	}
	if !slices.Contains([]string{IsolationAuto, IsolationNone, IsolationRequired}, o.Isolation) {
		errs = append(errs, fmt.Errorf("--isolation %q: use auto, none or required", o.Isolation))
	}
	if u, err := url.Parse(o.GatewayEndpoint); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Port() == "" {
		errs = append(errs, fmt.Errorf("--gateway-endpoint %q: give http(s)://host:port", o.GatewayEndpoint))
	}
	if o.MaxProcesses < 0 {
		errs = append(errs, fmt.Errorf("--max-processes %d: give 0 or more", o.MaxProcesses))
	}
	if info, err := os.Stat(o.Supervisor); err != nil {
		errs = append(errs, fmt.Errorf("--supervisor-binary: %w", err))
	} else if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
		errs = append(errs, fmt.Errorf("--supervisor-binary %s: not an executable file", o.Supervisor))
	}
	if o.GatewayCA != "" {
		if _, err := os.Stat(o.GatewayCA); err != nil {
			errs = append(errs, fmt.Errorf("--gateway-ca: %w", err))
		}
	}
	if o.Logger == nil {
		errs = append(errs, errors.New("no logger given"))
	}
	for _, p := range []*string{&o.StateDir, &o.Supervisor, &o.GatewayCA} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			errs = append(errs, fmt.Errorf("resolve path: %w", err))
			continue
		}
		*p = abs
	}
	return errors.Join(errs...)
}
