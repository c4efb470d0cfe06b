// Package driverfault words a fault as the status that a compute driver answers with: gateways pass its text on to users,
// so the next step is part of it, and the reason is in the details.
package driverfault

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/fault"
)

// Status returns a fault as a gRPC status. What the contract of compute drivers has no code for is Internal.
func Status(f *fault.Error) error {
	message := f.Message
	if f.Next != "" {
		message += "; " + f.Next
	}
	st := status.New(codeOf(f.Kind), message)
	detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: f.Reason, Domain: "sallyport.dev"})
	if err != nil {
		return st.Err()
	}
	return detailed.Err()
}

func codeOf(k fault.Kind) codes.Code {
	switch k {
	case fault.InvalidArgument:
		return codes.InvalidArgument
	case fault.NotFound:
		return codes.NotFound
	case fault.AlreadyExists:
		return codes.AlreadyExists
	case fault.FailedPrecondition:
		return codes.FailedPrecondition
	case fault.ResourceExhausted:
		return codes.ResourceExhausted
	case fault.Unavailable:
		return codes.Unavailable
	default:
		return codes.Internal
	}
}
