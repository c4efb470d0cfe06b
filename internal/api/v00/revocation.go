package v00

import (
	"context"
	"time"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/revocation"
)

// Revocations refuses identities and ends their streams.
type Revocations interface {
	Revoke(ctx context.Context, by *principal.Principal, r revocation.Revocation) (stored revocation.Revocation, ended int, err error)
	Restore(ctx context.Context, id string) error
	List(size int, token string) (page []revocation.Revocation, next string, err error)
	// Renewed tells that a sandbox has got a token that ends at expires, zero for never.
	Renewed(sandboxID string, expires time.Time)
}

// revocationHandler revokes and restores identities.
type revocationHandler struct {
	svc Services
}

var errRevocationsOff = fault.New(fault.FailedPrecondition, "REVOCATIONS_OFF", "this gateway keeps no revocations").
	WithNext("ask the gateway's operator")

// Revoke refuses an identity from now on and ends its open streams.
func (h revocationHandler) Revoke(ctx context.Context, req *sallyportpb.RevokeRequest) (*sallyportpb.RevokeResponse, error) {
	if h.svc.Revocations == nil {
		return nil, errRevocationsOff
	}
	want, err := revocationFromWire(req.GetRevocation())
	if err != nil {
		return nil, err
	}
	stored, ended, err := h.svc.Revocations.Revoke(ctx, principal.From(ctx), want)
	if err != nil {
		return nil, err
	}
	return &sallyportpb.RevokeResponse{Revocation: revocationToWire(stored), StreamsEnded: int32(ended)}, nil
}

// Restore takes a revocation back.
func (h revocationHandler) Restore(ctx context.Context, req *sallyportpb.RestoreRequest) (*sallyportpb.RestoreResponse, error) {
	if h.svc.Revocations == nil {
		return nil, errRevocationsOff
	}
	if req.GetId() == "" {
		return nil, fault.New(fault.InvalidArgument, "FIELD_REQUIRED", "id is required").WithNext("list the revocations for their ids")
	}
	if err := h.svc.Revocations.Restore(ctx, req.GetId()); err != nil {
		return nil, err
	}
	return &sallyportpb.RestoreResponse{}, nil
}

// ListRevocations lists what is revoked, newest first.
func (h revocationHandler) ListRevocations(_ context.Context, req *sallyportpb.ListRevocationsRequest) (*sallyportpb.ListRevocationsResponse, error) {
	if h.svc.Revocations == nil {
		return nil, errRevocationsOff
	}
	page, next, err := h.svc.Revocations.List(int(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &sallyportpb.ListRevocationsResponse{Revocations: make([]*sallyportpb.Revocation, len(page)), NextPageToken: next}
	for i, r := range page {
		resp.Revocations[i] = revocationToWire(r)
	}
	return resp, nil
}

// revocationFromWire drops what only the gateway sets.
func revocationFromWire(m *sallyportpb.Revocation) (revocation.Revocation, error) {
	r := revocation.Revocation{
		Issuer: m.GetIssuer(), Subject: m.GetSubject(), SandboxID: m.GetSandboxId(), SessionID: m.GetSessionId(),
		Reason: m.GetReason(), IssuedBefore: m.GetIssuedBefore(),
	}
	switch ms := m.GetExpiresAtMs(); {
	case ms < 0:
		return r, fault.New(fault.InvalidArgument, revocation.ReasonInvalid, "expires_at_ms must not be negative").
			WithNext("give milliseconds since 1970, or 0 for no end")
	case ms > 0:
		r.Expires = time.UnixMilli(ms)
	}
	return r, nil
}

func revocationToWire(r revocation.Revocation) *sallyportpb.Revocation {
	return &sallyportpb.Revocation{
		Id: r.ID, Issuer: r.Issuer, Subject: r.Subject, SandboxId: r.SandboxID, SessionId: r.SessionID, Reason: r.Reason,
		ExpiresAtMs: millis(r.Expires), IssuedBefore: r.IssuedBefore, CreatedAtMs: millis(r.Created), CreatedBy: r.CreatedBy,
	}
}
