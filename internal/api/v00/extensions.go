package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/fault"
)

// extensions serves sallyport.v1.
type extensions struct {
	sallyportpb.UnimplementedGatewayServer
	credentials Credentials
}

func (h *extensions) ListCredentials(ctx context.Context, _ *sallyportpb.ListCredentialsRequest) (*sallyportpb.ListCredentialsResponse, error) {
	if h.credentials == nil {
		return nil, fault.New(fault.FailedPrecondition, "CREDENTIALS_DRIVER_NOT_CONFIGURED", "no credentials driver is configured").
			WithNext("start the gateway with --credentials-driver-socket")
	}
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
