package gateway_test

import (
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authn/oidc"
)

// wantReason checks an error's code and its stable reason.
func wantReason(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && st.Code() == code && info.GetReason() == reason && info.GetMetadata()["next"] != "" {
			return
		}
	}
	t.Errorf("got %v, want code %s, reason %s and a next step", err, code, reason)
}

// A driver that can neither stop nor start is told apart from a failure, and nothing changes.
func TestStopWithADriverThatCannot(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.create("a").GetMetadata().GetId()
	stream, err := s.client.ConnectSupervisor(s.box(id))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(hello(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = s.client.StopSandbox(s.user(), &openshellpb.StopSandboxRequest{Name: "a"})
	wantReason(t, err, codes.Unimplemented, "DRIVER_LIFECYCLE_UNSUPPORTED")
	got, err := s.client.GetSandbox(s.user(), &openshellpb.GetSandboxRequest{Name: "a"})
	if err != nil || got.GetSandbox().GetPhase() != openshellpb.SandboxPhase_SANDBOX_PHASE_READY {
		t.Errorf("after a stop that could not be: %v, %v", got.GetSandbox().GetPhase(), err)
	}
	if _, err := s.client.StartSandbox(s.user(), &openshellpb.StartSandboxRequest{Name: "a"}); err != nil {
		t.Errorf("start of a ready sandbox: %v", err)
	}
	_, err = s.client.StopSandbox(s.user(), &openshellpb.StopSandboxRequest{Name: "b"})
	wantReason(t, err, codes.NotFound, "SANDBOX_NOT_FOUND")
}

// The chain of credentials asks the issuers whether there are any.
var _ interface{ Empty() bool } = (*oidc.Issuers)(nil)
