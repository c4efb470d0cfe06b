package revocation

import (
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Refusals of a revoked caller, which are also the causes with which its streams end.
var (
	errRevoked = fault.New(fault.Unauthenticated, ReasonRevoked, "invalid token: this identity has been revoked").
			WithNext("ask an administrator of the gateway to restore it")
	errSignInAgain = fault.New(fault.Unauthenticated, ReasonRevoked, "invalid token: credentials issued before a revocation are refused").
			WithNext("sign in again")
)

// rule is what is left of a revocation for the path of a call.
type rule struct {
	// expires is when the rule ends, cutoff before when a credential must have been issued to be refused; zero is no
	// bound.
	expires, cutoff time.Time
}

func (r Revocation) rule() rule {
	out := rule{expires: r.Expires}
	if r.IssuedBefore {
		out.cutoff = r.Created
	}
	return out
}

// refusal returns why the rule refuses p, nil if it does not. The caller has checked that it is about p.
func (r rule) refusal(p *principal.Principal, now func() time.Time) error {
	switch {
	case !r.expires.IsZero() && !now().Before(r.expires):
		return nil
	case r.cutoff.IsZero():
		return errRevoked
	case p.Issued.Before(r.cutoff):
		return errSignInAgain
	default:
		return nil
	}
}

// index holds a rule for each revoked target. It is immutable once calls see it.
type index map[target]rule

// refusal returns why p is refused, nil if it is not.
func (x index) refusal(p *principal.Principal, now func() time.Time) error {
	if len(x) == 0 {
		return nil
	}
	switch p.Kind {
	case principal.User:
		if r, ok := x[target{ofUser, p.Issuer, p.Subject}]; ok {
			if err := r.refusal(p, now); err != nil {
				return err
			}
		}
		if p.SessionID == "" {
			return nil
		}
		if r, ok := x[target{ofSession, p.Issuer, p.SessionID}]; ok {
			return r.refusal(p, now)
		}
	case principal.Sandbox:
		if r, ok := x[target{ofSandbox, "", p.SandboxID}]; ok {
			return r.refusal(p, now)
		}
	}
	return nil
}

// without returns a copy that lacks one target, and the rules that are over.
func (x index) without(t target, now time.Time) index {
	out := make(index, len(x)+1)
	for of, r := range x {
		if of != t && (r.expires.IsZero() || now.Before(r.expires)) {
			out[of] = r
		}
	}
	return out
}
