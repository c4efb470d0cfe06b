package v00

import (
	"context"
	"strings"
	"testing"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Whatever the door lets through, each of the two calls takes its own kind of credential only.
func TestTokenCallsLookAtTheCredential(t *testing.T) {
	t.Parallel()
	h := identityHandler{Services{}}
	issue := func(ctx context.Context) error {
		_, err := h.IssueSandboxToken(ctx, &openshellpb.IssueSandboxTokenRequest{})
		return err
	}
	refresh := func(ctx context.Context) error {
		_, err := h.RefreshSandboxToken(ctx, &openshellpb.RefreshSandboxTokenRequest{})
		return err
	}
	const noIssue, noRefresh, none = "use RefreshSandboxToken", "use IssueSandboxToken for bootstrap", "sandbox JWT minting is not configured"
	for source, want := range map[string][2]string{
		principal.SourceToken:          {noIssue, none},
		principal.SourceExpiredToken:   {noIssue, none},
		principal.SourceServiceAccount: {none, noRefresh},
		principal.SourceSharedSecret:   {noIssue, noRefresh},
		"":                             {noIssue, noRefresh},
	} {
		kind := principal.Sandbox
		if source == "" {
			kind = principal.User
		}
		ctx := principal.With(t.Context(), &principal.Principal{Kind: kind, SandboxID: "box", Source: source})
		for n, call := range []func(context.Context) error{issue, refresh} {
			err := call(ctx)
			code := fault.PermissionDenied
			if want[n] == none {
				code = fault.Unavailable
			}
			if !fault.Is(err, code) || !strings.Contains(err.Error(), want[n]) || fault.From(err).Next == "" {
				t.Errorf("%q, call %d: %v, want %q", source, n, err, want[n])
			}
		}
	}
}

func TestRotationWithoutKeys(t *testing.T) {
	t.Parallel()
	if _, err := (keysHandler{}).RotateSandboxKeys(t.Context(), &sallyportpb.RotateSandboxKeysRequest{}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("got %v", err)
	}
}
