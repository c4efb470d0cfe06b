package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/cli/output"
	"sallyport.dev/sallyport/internal/cli/transport"
	"sallyport.dev/sallyport/internal/fault"
)

// usageError is a mistake on the command line: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// exitError ends the process with a code that something else already explained, such as a remote command's.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// exitWith is nil for code 0.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code}
}

// failure is a local error with a next step.
func failure(next, format string, args ...any) error {
	return &fault.Error{Kind: fault.FailedPrecondition, Reason: "CLI", Message: fmt.Sprintf(format, args...), Next: next}
}

// report prints why a command failed and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	if _, ok := errors.AsType[runError](err); !ok {
		a.out.Note("error: %v", err)
		a.out.Note("hint: see `sallyport --help`, or `--help` of the command")
		return exitUsage
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled) {
		a.out.Note("interrupted")
		return exitInterrupted
	}
	message, next := a.explain(err)
	a.out.Note("error: %s", message)
	if next != "" {
		a.out.Note("hint: %s", next)
	}
	if a.flags.verbose > 0 {
		a.detail(err)
	}
	return exitFailed
}

// detail adds what helps to find the failure elsewhere.
func (a *app) detail(err error) {
	if call, ok := errors.AsType[*transport.CallError](err); ok {
		a.out.Note("call: %s, code %s", call.Method, status.Code(err))
		a.out.Note("request id: %s", call.RequestID)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Cause != nil {
		a.out.Note("cause: %v", f.Cause)
	}
}

// explain words an error and its next step.
func (a *app) explain(err error) (message, next string) {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Message, f.Next
	}
	call, ok := errors.AsType[*transport.CallError](err)
	if !ok {
		return err.Error(), ""
	}
	st := call.GRPCStatus()
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return st.Message(), info.GetMetadata()["next"]
		}
	}
	return a.explainBare(call.Method, st)
}

// explainBare is for a status without details: the gateway is of another make or was not reached at all.
func (a *app) explainBare(method string, st *status.Status) (message, next string) {
	switch st.Code() {
	case codes.DeadlineExceeded:
		return fmt.Sprintf("gateway '%s' at %s did not answer in time: %s", a.ref.label(), a.ref.endpoint, orCode(st)), "try again"
	case codes.Unavailable:
		message = fmt.Sprintf("failed to connect to gateway '%s' at %s: %s", a.ref.label(), a.ref.endpoint, dialError(st.Message()))
		next = "check that the gateway runs and that the endpoint is right"
		if strings.Contains(st.Message(), "x509: ") || strings.Contains(st.Message(), "tls: ") {
			next = "register the gateway with the certificate that vouches for it: `sallyport gateway add URL --ca FILE`"
		}
		return message, next
	case codes.Unauthenticated:
		return orCode(st), fmt.Sprintf("run `sallyport gateway login %s`", a.ref.label())
	case codes.Unimplemented:
		return fmt.Sprintf("the gateway does not offer %s: %s", method[strings.LastIndexByte(method, '/')+1:], orCode(st)), ""
	case codes.AlreadyExists:
		return orCode(st), "delete it first or choose another name"
	default:
		return orCode(st), ""
	}
}

func orCode(st *status.Status) string {
	if st.Message() == "" {
		return st.Code().String()
	}
	return st.Message()
}

// dialError takes the gRPC library's wrapping off the reason why a connection failed.
func dialError(message string) string {
	for _, prefix := range []string{"connection error: desc = ", "transport: Error while dialing: ", "transport: "} {
		message = strings.TrimPrefix(strings.Trim(message, `"`), prefix)
	}
	return output.Clean(strings.Trim(message, `"`))
}
