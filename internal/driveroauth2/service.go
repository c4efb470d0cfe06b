package driveroauth2

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/mvp/credentialspb"
	"sallyport.dev/sallyport/internal/fault"
)

// WireService is the service's name on the wire. The generated code carries one more package element, because
// both generations of the contract use the same names for different messages and cannot be linked together.
const WireService = "openshell.credentials.v1.CredentialsDriver"

// Register adds the driver's service, under its wire name, to a server.
func (d *Driver) Register(r grpc.ServiceRegistrar) {
	desc := credentialspb.CredentialsDriver_ServiceDesc
	desc.ServiceName = WireService
	r.RegisterService(&desc, &service{driver: d})
}

type service struct {
	credentialspb.UnimplementedCredentialsDriverServer
	driver *Driver
}

func (s *service) ResolveCredential(ctx context.Context, req *credentialspb.ResolveCredentialRequest) (*credentialspb.ResolveCredentialResponse, error) {
	value, kind, expires, err := s.driver.Resolve(ctx, req.GetName())
	if err != nil {
		return nil, toStatus(err)
	}
	return &credentialspb.ResolveCredentialResponse{Token: value, TokenType: kind, ExpiresAtMs: expires.UnixMilli()}, nil
}

func (s *service) ListCredentials(context.Context, *credentialspb.ListCredentialsRequest) (*credentialspb.ListCredentialsResponse, error) {
	out := &credentialspb.ListCredentialsResponse{}
	for _, c := range s.driver.List() {
		out.Credentials = append(out.Credentials, &credentialspb.CredentialInfo{Name: c.Name, Scopes: c.Scopes})
	}
	return out, nil
}

// toStatus maps a failure to a status with the reason as ErrorInfo and the next step as Help.
func toStatus(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	f := fault.From(err)
	code := codes.Internal
	switch f.Kind {
	case fault.InvalidArgument:
		code = codes.InvalidArgument
	case fault.NotFound:
		code = codes.NotFound
	case fault.Unavailable:
		code = codes.Unavailable
	}
	st := status.New(code, f.Message)
	info := &errdetails.ErrorInfo{Reason: f.Reason, Domain: "sallyport.dev"}
	if f.Next != "" {
		info.Metadata = map[string]string{"next": f.Next}
	}
	if with, err := st.WithDetails(info); err == nil {
		st = with
	}
	return st.Err()
}
