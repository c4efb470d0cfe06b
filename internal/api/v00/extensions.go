package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/sallyportpb"
)

// extensions composes sallyport.v1 from one handler type a topic, like openShell.
type extensions struct {
	credentialsHandler
	auditHandler
	accessHandler
	revocationHandler
	keysHandler
	restOfExtensions
}

type restOfExtensions struct {
	sallyportpb.UnimplementedGatewayServer
}

type credentialsHandler struct {
	credentials Credentials
}

func (h credentialsHandler) ListCredentials(ctx context.Context, _ *sallyportpb.ListCredentialsRequest) (*sallyportpb.ListCredentialsResponse, error) {
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
