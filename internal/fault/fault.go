// Package fault is the one error type that crosses rooms: a kind that an edge maps to its own codes, a stable
// reason that tests, metrics and people can match, a message for the caller and the next step to take. The
// wrapped cause is for logs and never leaves the process.
package fault

import (
	"errors"
	"fmt"
)

// Kind is what went wrong, in the closed set of outcomes that callers branch on. Edges map each to one status
// code; the names follow gRPC's.
type Kind uint8

// The kinds; Unknown is the zero value and means that nobody classified the failure.
const (
	Unknown Kind = iota
	InvalidArgument
	NotFound
	AlreadyExists
	PermissionDenied
	Unauthenticated
	FailedPrecondition
	ResourceExhausted
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DeadlineExceeded
	Canceled
)

// Error is a failure with everything a caller may know about it.
type Error struct {
	Kind Kind
	// Reason is a stable UPPER_SNAKE word, for example "SANDBOX_NOT_FOUND". It never changes once released.
	Reason string
	// Message is one lower-case sentence without final period; clients of older generations match substrings
	// of it, so it keeps their wording where they have one.
	Message string
	// Next tells the caller what to do about it; may be empty where Message says it all.
	Next string
	// Cause is private: logged, never sent.
	Cause error
}

// New returns an Error of the kind and reason with a formatted message.
func New(kind Kind, reason, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Wrap is New with a private cause.
func Wrap(cause error, kind Kind, reason, format string, args ...any) *Error {
	e := New(kind, reason, format, args...)
	e.Cause = cause
	return e
}

// WithNext returns e with the next step set.
func (e *Error) WithNext(format string, args ...any) *Error {
	e.Next = fmt.Sprintf(format, args...)
	return e
}

// Error is for logs: message and cause.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.Cause }

// From finds the Error in err's chain. An error of another type becomes Internal with a fixed text, so that
// nothing unforeseen reaches a caller.
func From(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Wrap(err, Internal, "INTERNAL", "internal error").
		WithNext("quote the request id to the gateway's operator")
}

// Is tells whether err's chain holds an Error of the kind.
func Is(err error, kind Kind) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == kind
}
