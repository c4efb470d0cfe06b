package cli_test

import (
	"context"

	"sallyport.dev/sallyport/gen/sallyportpb"
)

// RotateSandboxKeys answers as a gateway with one key before.
func (g *gateway) RotateSandboxKeys(context.Context, *sallyportpb.RotateSandboxKeysRequest) (*sallyportpb.RotateSandboxKeysResponse, error) {
	return &sallyportpb.RotateSandboxKeysResponse{KeyId: "newkey", VerifyingKeyIds: []string{"oldkey", "newkey"}}, nil
}
