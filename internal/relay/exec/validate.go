package exec

import (
	"strings"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
)

// Bounds of an exec request, in bytes and entries.
const (
	MaxArgs       = 1024
	MaxArg        = 32 << 10
	MaxEnv        = 128
	MaxEnvValue   = 32 << 10
	MaxWorkdir    = 4096
	MaxStdin      = 4 << 20
	pyFuncEnvName = "OPENSHELL_PYFUNC_B64"
)

// Validate checks what a caller asks for. Names under OPENSHELL_ belong to the runtime, except the one in which
// the Python SDK ships a function.
func Validate(req *Request) error {
	if len(req.Command) == 0 {
		return fault.New(fault.InvalidArgument, "COMMAND_REQUIRED", "command is required").WithNext("send at least one word")
	}
	if len(req.Command) > MaxArgs {
		return fault.New(fault.InvalidArgument, limits.ReasonTooMany, "command exceeds %d argument limit", MaxArgs)
	}
	if req.Command[0] == "" {
		return fault.New(fault.InvalidArgument, "COMMAND_REQUIRED", "command must begin with a program")
	}
	total := 0
	for _, a := range req.Command {
		if err := limits.Length("command argument", a, MaxArg); err != nil {
			return err
		}
		if strings.ContainsRune(a, 0) {
			return fault.New(fault.InvalidArgument, "COMMAND_NUL", "command argument must not contain NUL bytes")
		}
		total += len(a) + 1
	}
	if total > MaxCommandLine {
		return fault.New(fault.InvalidArgument, "COMMAND_TOO_LONG",
			"command construction failed: command exceeds maximum length (%d > %d)", total, MaxCommandLine).
			WithNext("pass large data on standard input instead")
	}
	if err := validateEnv(req.Environment); err != nil {
		return err
	}
	if err := limits.Length("workdir", req.Workdir, MaxWorkdir); err != nil {
		return err
	}
	if strings.ContainsAny(req.Workdir, "\x00\r\n") {
		return fault.New(fault.InvalidArgument, "WORKDIR_INVALID", "workdir must not contain NUL, CR or LF")
	}
	if len(req.Stdin) > MaxStdin {
		return fault.New(fault.InvalidArgument, limits.ReasonTooLarge, "stdin payload exceeds maximum (%d > %d)", len(req.Stdin), MaxStdin).
			WithNext("send at most %d bytes, or put the data into a file of the sandbox first", MaxStdin)
	}
	return nil
}

func validateEnv(env map[string]string) error {
	if err := limits.Entries("environment", len(env), MaxEnv); err != nil {
		return err
	}
	for k, v := range env {
		if err := limits.EnvName("environment", k); err != nil {
			return err
		}
		if strings.HasPrefix(k, "OPENSHELL_") && k != pyFuncEnvName {
			return fault.New(fault.InvalidArgument, "ENVIRONMENT_RESERVED", "environment keys with prefix OPENSHELL_ are reserved")
		}
		if err := limits.Length("environment value", v, MaxEnvValue); err != nil {
			return err
		}
		if strings.ContainsAny(v, "\x00\r\n") {
			return fault.New(fault.InvalidArgument, limits.ReasonInvalidEnvVal, "environment value must not contain NUL, CR or LF")
		}
	}
	return nil
}
