//go:build linux

package e2e_test

import (
	"fmt"
	"net/http"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/devidp"
)

func TestIdentityProviderAway(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "before")
	s.stopIdentity()
	// The keys are known, so that tokens go on being good, also one that was not seen before.
	s.sh(t, id, "true")
	if _, err := s.admin.ListProviders(t.Context(), &openshellpb.ListProvidersRequest{}); err != nil {
		t.Errorf("with the identity provider away: %v", err)
	}

	if err := s.gateway.terminate(); err != nil {
		t.Fatalf("gateway ended with %v, want exit status 0", err)
	}
	s.gateway.restart(t)
	eventually(t, "gateway not ready, for want of the identity provider alone", func() error {
		r, code, err := s.readiness()
		if err != nil {
			return err
		}
		if code != http.StatusServiceUnavailable || len(r.Checks) < 4 {
			return fmt.Errorf("HTTP %d, %+v", code, r)
		}
		for name, c := range r.Checks {
			if (c.Error == "") == (name == "oidc") {
				return fmt.Errorf("%s says %+v", name, c)
			}
		}
		return nil
	})
	_, err := s.user.ListSandboxes(t.Context(), &openshellpb.ListSandboxesRequest{})
	if code := status.Code(err); code != codes.Unavailable && code != codes.Unauthenticated {
		t.Errorf("a token that nobody can check: %v", err)
	}

	s.startIdentity()
	s.waitReady()
	s.waitPhase(t, id, "READY")
	s.sh(t, id, "true")
	fresh := s.connect(devidp.CLIClient, "user@test", "user")
	if _, err := fresh.ListSandboxes(t.Context(), &openshellpb.ListSandboxesRequest{}); err != nil {
		t.Errorf("a token of after the outage: %v", err)
	}
	s.remove(t, id, "before")
}
