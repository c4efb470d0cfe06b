package driver

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/fault"
)

// maxMessageText bounds what is kept of a driver's error text.
const maxMessageText = 2048

// Refusal is the error a driver answered with. It is the private cause of the *fault.Error of the call.
type Refusal struct {
	Code codes.Code
	// Message is the driver's text, at most 2 KiB of printable characters.
	Message string
}

// Error is the code and the text.
func (r *Refusal) Error() string { return r.Code.String() + ": " + r.Message }

// transportError marks an error that no driver answered with.
type transportError struct{ cause error }

func (e *transportError) Error() string {
	if e.cause == nil {
		return "no answer"
	}
	return e.cause.Error()
}

func (e *transportError) Unwrap() error { return e.cause }

// CodeOf returns the code a driver answered with; codes.Unavailable where it did not answer, codes.OK for nil,
// codes.Unknown for an error of another origin.
func CodeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	if _, ok := errors.AsType[*transportError](err); ok {
		return codes.Unavailable
	}
	return codes.Unknown
}

// Answered tells whether the driver itself answered with err. If not, nobody knows whether it did what was asked.
func Answered(err error) bool {
	_, ok := errors.AsType[*Refusal](err)
	return ok
}

// MessageOf returns the driver's own text, or err's caller-facing message where the driver did not answer.
func MessageOf(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Message
	}
	return fault.From(err).Message
}

// refused is the fault of an answered error: the driver's code and text unchanged.
func refused(st *status.Status) *fault.Error {
	r := &Refusal{Code: st.Code(), Message: clean(st.Message(), maxMessageText)}
	return &fault.Error{Kind: KindOf(r.Code), Reason: ReasonRefused, Message: r.Message, Cause: r}
}

// InvalidAnswer is the fault of an answer that cannot be true. The text says what is wrong with it.
func InvalidAnswer(driver, method, format string, args ...any) *fault.Error {
	e := fault.New(fault.Internal, ReasonInvalidAnswer, format, args...)
	e.Message = driver + " driver gave an invalid answer to " + method + ": " + e.Message
	return e.WithNext("update or repair the %s driver", driver)
}

// KindOf maps a gRPC code to the kind of the same name; codes that tell a caller nothing become Internal.
func KindOf(code codes.Code) fault.Kind {
	switch code {
	case codes.InvalidArgument:
		return fault.InvalidArgument
	case codes.NotFound:
		return fault.NotFound
	case codes.AlreadyExists:
		return fault.AlreadyExists
	case codes.PermissionDenied:
		return fault.PermissionDenied
	case codes.Unauthenticated:
		return fault.Unauthenticated
	case codes.FailedPrecondition:
		return fault.FailedPrecondition
	case codes.ResourceExhausted:
		return fault.ResourceExhausted
	case codes.Aborted:
		return fault.Aborted
	case codes.OutOfRange:
		return fault.OutOfRange
	case codes.Unimplemented:
		return fault.Unimplemented
	case codes.Unavailable:
		return fault.Unavailable
	case codes.DeadlineExceeded:
		return fault.DeadlineExceeded
	case codes.Canceled:
		return fault.Canceled
	default:
		return fault.Internal
	}
}

// clean cuts s to most bytes and replaces what could break a log line or a terminal.
func clean(s string, most int) string {
	if len(s) > most {
		s = s[:most]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

func oneLine(s string, most int) string {
	return strings.Join(strings.Fields(clean(s, most)), " ")
}
