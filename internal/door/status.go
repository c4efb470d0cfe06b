package door

import (
	"context"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/fault"
)

// Domain is the domain of the reasons in a status's ErrorInfo.
const Domain = "sallyport.dev"

// maxMessage bounds a message and a next step in bytes; both travel in headers, the message twice.
const maxMessage = 2 << 10

var kindCodes = map[fault.Kind]codes.Code{
	fault.Unknown:            codes.Unknown,
	fault.InvalidArgument:    codes.InvalidArgument,
	fault.NotFound:           codes.NotFound,
	fault.AlreadyExists:      codes.AlreadyExists,
	fault.PermissionDenied:   codes.PermissionDenied,
	fault.Unauthenticated:    codes.Unauthenticated,
	fault.FailedPrecondition: codes.FailedPrecondition,
	fault.ResourceExhausted:  codes.ResourceExhausted,
	fault.Aborted:            codes.Aborted,
	fault.OutOfRange:         codes.OutOfRange,
	fault.Unimplemented:      codes.Unimplemented,
	fault.Internal:           codes.Internal,
	fault.Unavailable:        codes.Unavailable,
	fault.DeadlineExceeded:   codes.DeadlineExceeded,
	fault.Canceled:           codes.Canceled,
}

// ErrCredentialExpired is the cause with which Sessions end a stream whose credential expired without renewal.
var ErrCredentialExpired = fault.New(fault.Unauthenticated, "CREDENTIAL_EXPIRED",
	"invalid token: ExpiredSignature: the credential this stream was opened with has expired").
	WithNext("open the stream again with a fresh token")

// errStreamEnded is the answer on a stream that was ended from the gateway's side: the cause, if it is a fault.
func errStreamEnded(cause, err error) error {
	if f, ok := errors.AsType[*fault.Error](cause); ok {
		return f
	}
	return err
}

// Status returns the gRPC status error for a service's error: the fault's code, message, reason and next step, and
// nothing of its cause. Errors that are no faults become INTERNAL, but for those by which the transport says that a
// call has ended or was too big.
func Status(err error, requestID string) error {
	if err == nil {
		return nil
	}
	return statusOf("", err, requestID).Err()
}

func statusOf(method string, err error, requestID string) *status.Status {
	// Health and reflection come from the gRPC library and speak in statuses.
	if st, ok := status.FromError(err); ok && strings.HasPrefix(method, "/grpc.") {
		return st
	}
	f := faultOf(method, err)
	code, ok := kindCodes[f.Kind]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, bounded(f.Message))
	info := &errdetails.ErrorInfo{Reason: f.Reason, Domain: Domain, Metadata: map[string]string{}}
	if f.Next != "" {
		info.Metadata["next"] = bounded(f.Next)
	}
	if requestID != "" {
		info.Metadata["request_id"] = requestID
	}
	detailed, err := st.WithDetails(info)
	if err != nil {
		return st // The code and the message still tell.
	}
	return detailed
}

// faultOf finds the fault in err, or the one that a known foreign error stands for.
func faultOf(method string, err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fault.Wrap(err, fault.Canceled, "CANCELED", "the call was canceled")
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Wrap(err, fault.DeadlineExceeded, "DEADLINE_EXCEEDED", "the call's deadline passed").
			WithNext("allow more time")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault.Wrap(err, fault.Canceled, "STREAM_CUT", "the stream ended within a message")
	}
	if st, ok := status.FromError(err); ok {
		switch st.Code() {
		case codes.Canceled:
			return fault.Wrap(err, fault.Canceled, "CANCELED", "the call was canceled")
		case codes.DeadlineExceeded:
			return fault.Wrap(err, fault.DeadlineExceeded, "DEADLINE_EXCEEDED", "the call's deadline passed").
				WithNext("allow more time")
		case codes.ResourceExhausted:
			return fault.Wrap(err, fault.ResourceExhausted, "CALL_TOO_LARGE",
				"a message of the call is larger than accepted, or another limit of the call is reached").
				WithNext("ask for less or send less at a time")
		case codes.Unimplemented:
			return fault.Wrap(err, fault.Unimplemented, "NOT_BUILT", "%s is not built yet; docs/status.md says when it comes", bounded(method)).
				WithNext("see docs/status.md for what is served")
		}
	}
	return fault.From(err)
}

// bounded cuts a text between characters and drops what is no text.
func bounded(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if len(s) <= maxMessage {
		return s
	}
	end := maxMessage
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}
