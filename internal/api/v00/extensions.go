package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/sallyportpb"
)

// extensions serves sallyport.v1.
type extensions struct {
	sallyportpb.UnimplementedGatewayServer
	credentials Credentials
}

func (h *extensions) ListCredentials(ctx context.Context, _ *sallyportpb.ListCredentialsRequest) (*sallyportpb.ListCredentialsResponse, error) {
	list, err := h.credentials.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &sallyportpb.ListCredentialsResponse{Credentials: make([]*sallyportpb.DriverCredential, len(list))}
	for i, c := range list {
		resp.Credentials[i] = &sallyportpb.DriverCredential{Name: c.Name, Scopes: c.Scopes}
	}
	return resp, nil
}
