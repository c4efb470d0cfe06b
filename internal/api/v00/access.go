package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/access"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Explainer explains authentication and authorization.
type Explainer interface {
	Explain(ctx context.Context, q access.Question) (*access.Report, error)
	Preview(ctx context.Context, file []byte) (changes []access.Change, unchanged int, err error)
}

// accessHandler explains authentication and authorization.
type accessHandler struct {
	svc Services
}

func (h accessHandler) ExplainAccess(ctx context.Context, req *sallyportpb.ExplainAccessRequest) (*sallyportpb.ExplainAccessResponse, error) {
	if p := principal.From(ctx); p.Kind != principal.User {
		return nil, fault.New(fault.PermissionDenied, "USER_REQUIRED", "only users can have their access explained")
	}
	r, err := h.svc.Explain.Explain(ctx, access.Question{
		Methods: req.Methods, Workspace: req.Workspace, Issuer: req.Issuer, Subject: req.Subject, Claims: req.ClaimsJson,
	})
	if err != nil {
		return nil, err
	}
	out := &sallyportpb.ExplainAccessResponse{
		Kind: principal.Anonymous.String(), Issuer: r.Issuer, Subject: r.Subject, Mode: r.Mode, Workspaces: r.Workspaces,
	}
	if p := r.Principal; p != nil {
		out.Kind, out.DisplayName, out.IdentityProvider = p.Kind.String(), p.DisplayName, p.Provider
		out.Tenant, out.Roles, out.Scopes = p.Tenant, p.Roles, p.Scopes
	}
	for _, s := range r.Steps {
		out.Steps = append(out.Steps, &sallyportpb.ExplainStep{
			Name: s.Name, Claim: s.Claim, Found: s.Found, Outcome: string(s.Outcome), Detail: s.Detail,
		})
	}
	for _, v := range r.Verdicts {
		verdict := &sallyportpb.MethodVerdict{
			Method: v.Method, Allowed: v.Refusal == nil, AuthMode: string(v.Rule.Mode), RequiredRole: string(v.Rule.Role),
			RequiredScope: v.Rule.Scope,
		}
		if v.Refusal != nil {
			verdict.Reason, verdict.Message = v.Refusal.Reason, v.Refusal.Message
			if v.Refusal.Next != "" {
				verdict.Message += "; " + v.Refusal.Next
			}
		}
		out.Verdicts = append(out.Verdicts, verdict)
	}
	return out, nil
}

func (h accessHandler) PreviewAccess(ctx context.Context, req *sallyportpb.PreviewAccessRequest) (*sallyportpb.PreviewAccessResponse, error) {
	changes, unchanged, err := h.svc.Explain.Preview(ctx, []byte(req.ConfigToml))
	if err != nil {
		return nil, err
	}
	out := &sallyportpb.PreviewAccessResponse{Unchanged: int32(unchanged)}
	for _, c := range changes {
		out.Changes = append(out.Changes, &sallyportpb.AccessChange{
			Issuer: c.Issuer, Subject: c.Subject, DisplayName: c.DisplayName, Lost: c.Lost, Gained: c.Gained, Refused: c.Refused,
		})
	}
	return out, nil
}
