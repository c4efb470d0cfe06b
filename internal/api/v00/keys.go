package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/fault"
)

// KeyRing holds the keys of sandbox tokens.
type KeyRing interface {
	// Rotate makes a new key, which signs from now on. It returns the key's id and those of all keys that verify, the
	// new one last.
	Rotate() (keyID string, verifying []string, err error)
}

// keysHandler manages the keys of sandbox tokens.
type keysHandler struct {
	svc Services
}

// RotateSandboxKeys changes the key that signs. Tokens of older keys stay good until they expire.
func (h keysHandler) RotateSandboxKeys(context.Context, *sallyportpb.RotateSandboxKeysRequest) (*sallyportpb.RotateSandboxKeysResponse, error) {
	if h.svc.Keys == nil {
		return nil, fault.New(fault.FailedPrecondition, "SANDBOX_KEY_ROTATION", "this gateway has no keys of sandbox tokens to rotate")
	}
	id, verifying, err := h.svc.Keys.Rotate()
	if err != nil {
		return nil, err
	}
	return &sallyportpb.RotateSandboxKeysResponse{KeyId: id, VerifyingKeyIds: verifying}, nil
}
