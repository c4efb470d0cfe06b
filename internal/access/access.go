// Package access explains who gets in and who may do what, before and after a change of the configuration. It decides
// nothing itself: it asks the very rules that the door goes by, and says how they came to their answer. It must never
// be given a token, and needs none.
package access

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Bounds of a request.
const (
	MaxMethods = 200
	// MaxClaims bounds claims in JSON, in bytes.
	MaxClaims = 64 << 10
	// MaxChanges bounds the identities that Preview lists.
	MaxChanges = 1000
)

// Stable reasons of this package's errors.
const (
	ReasonAdmin    = "PLATFORM_ADMIN_REQUIRED"
	ReasonRequest  = "EXPLAIN_REQUEST_INVALID"
	ReasonNotSeen  = "IDENTITY_NOT_SEEN"
	ReasonNewRules = "CONFIGURATION_INVALID"
)

// Identities are the users that the gateway has seen, and the rules by which tokens become users.
type Identities interface {
	Seen(issuer, subject string) (*oidc.Seen, bool)
	EachSeen() iter.Seq[*oidc.Seen]
	Rules() *oidc.Rules
}

// Authorizer is the decision of the door.
type Authorizer interface {
	// Decide is the whole decision about a call in a workspace: the door's, and that of the service behind it.
	Decide(p *principal.Principal, fullMethod, workspace string) error
	Admin(p *principal.Principal) bool
	Table() *authz.Table
}

// Memberships says which workspaces a user is a member of, and as what ("user" or "admin").
type Memberships interface {
	// Of returns the roles by workspace; nil where workspaces decide nothing.
	Of(p *principal.Principal) map[string]string
}

// Candidate is what a new configuration would put in force.
type Candidate struct {
	Rules      *oidc.Rules
	Authorizer Authorizer
}

// Config is what a Service needs.
type Config struct {
	Identities Identities
	// Authorizer returns the one in force.
	Authorizer func() Authorizer
	// Memberships may be nil where there are no workspaces.
	Memberships Memberships
	// Candidate reads a configuration file as the gateway would, with its own flags and variables; nil cannot.
	Candidate func(file []byte) (*Candidate, error)
	// Mode is the name of the authorization mode in force.
	Mode func() string
	Now  func() time.Time
}

// Service explains. It is safe for concurrent use.
type Service struct{ cfg Config }

// New returns a Service.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{cfg: c}
}

// Question is what a caller wants explained. Without Issuer, Subject and Claims it is about the caller.
type Question struct {
	// Methods are full names; none means all.
	Methods []string
	// Workspace is where the verdicts are for; empty means the default one.
	Workspace       string
	Issuer, Subject string
	// Claims are those of a token that does not exist, as a JSON object.
	Claims string
}

// Report is an answer.
type Report struct {
	// Principal is who the identity is; nil where it is refused.
	Principal *principal.Principal
	// Issuer and Subject name the identity also where it is refused.
	Issuer, Subject string
	Steps           []oidc.Step
	Verdicts        []Verdict
	Mode            string
	Workspaces      map[string]string
}

// Verdict is the decision about one method.
type Verdict struct {
	Method string
	Rule   authz.Rule
	// Refusal is nil where the method is allowed.
	Refusal *fault.Error
}

// Explain answers a question of the caller that ctx carries.
func (s *Service) Explain(ctx context.Context, q Question) (*Report, error) {
	caller := principal.From(ctx)
	if err := s.check(caller, &q); err != nil {
		return nil, err
	}
	r := &Report{Mode: s.cfg.Mode()}
	if err := s.identify(caller, q, r); err != nil {
		return nil, err
	}
	methods := q.Methods
	if len(methods) == 0 {
		methods = s.cfg.Authorizer().Table().Methods()
	}
	for _, m := range methods {
		r.Verdicts = append(r.Verdicts, s.verdict(s.cfg.Authorizer(), r.Principal, m, q.Workspace))
	}
	if s.cfg.Memberships != nil && r.Principal != nil {
		r.Workspaces = s.cfg.Memberships.Of(r.Principal)
	}
	return r, nil
}

func (s *Service) check(caller *principal.Principal, q *Question) error {
	named, invented := q.Issuer != "" || q.Subject != "", q.Claims != ""
	switch {
	case len(q.Methods) > MaxMethods:
		return fault.New(fault.InvalidArgument, ReasonRequest, "more than %d methods", MaxMethods).WithNext("ask about fewer at a time")
	case named && invented:
		return fault.New(fault.InvalidArgument, ReasonRequest, "an identity and claims are mutually exclusive").
			WithNext("name issuer and subject, or give claims")
	case named && (q.Issuer == "" || q.Subject == ""):
		return fault.New(fault.InvalidArgument, ReasonRequest, "an identity is an issuer and a subject").
			WithNext("give both, as audit records have them")
	case len(q.Claims) > MaxClaims:
		return fault.New(fault.InvalidArgument, ReasonRequest, "claims are longer than %d bytes", MaxClaims).
			WithNext("leave out claims that the configuration does not look at")
	}
	if named && q.Issuer == caller.Issuer && q.Subject == caller.Subject {
		named, q.Issuer, q.Subject = false, "", ""
	}
	if (named || invented) && !s.cfg.Authorizer().Admin(caller) {
		return fault.New(fault.PermissionDenied, ReasonAdmin, "platform admin role required to explain another identity").
			WithNext("ask about yourself, or have an administrator ask")
	}
	return nil
}

// identify finds out who the question is about.
func (s *Service) identify(caller *principal.Principal, q Question, r *Report) error {
	switch {
	case q.Claims != "":
		claims, err := decode(q.Claims)
		if err != nil {
			return fault.Wrap(err, fault.InvalidArgument, ReasonRequest, "claims are no JSON object").
				WithNext("give the payload of a token, such as {\"iss\": \"https://...\", \"sub\": \"...\"}")
		}
		r.Issuer, _ = claims["iss"].(string)
		r.Subject, _ = claims["sub"].(string)
		r.Principal, r.Steps, err = s.cfg.Identities.Rules().Evaluate(claims, s.cfg.Now())
		return s.refused(err)
	case q.Subject != "":
		seen, ok := s.cfg.Identities.Seen(strings.TrimRight(q.Issuer, "/"), q.Subject)
		if !ok {
			return fault.New(fault.NotFound, ReasonNotSeen, "this identity has not been seen since the gateway started").
				WithNext("have it sign in, or give its claims")
		}
		return s.seen(seen, r)
	}
	if seen, ok := s.cfg.Identities.Seen(caller.Issuer, caller.Subject); ok && caller.Provider == principal.ProviderOIDC {
		return s.seen(seen, r)
	}
	r.Principal, r.Issuer, r.Subject = caller, caller.Issuer, caller.Subject
	r.Steps = []oidc.Step{{
		Name: "credential", Found: caller.Provider + caller.Source, Outcome: oidc.Accepted,
		Detail: "the caller was not established by a token of an identity provider",
	}}
	return nil
}

func (s *Service) seen(seen *oidc.Seen, r *Report) error {
	r.Issuer, r.Subject = seen.Issuer, seen.Subject
	var err error
	r.Principal, r.Steps, err = s.cfg.Identities.Rules().EvaluateSeen(seen, time.Time{})
	return s.refused(err)
}

// refused drops a refusal, which the steps tell about, and keeps other errors.
func (s *Service) refused(err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return nil
	}
	return err
}

func decode(raw string) (map[string]any, error) {
	var claims map[string]any
	if err := json.Unmarshal([]byte(raw), &claims); err != nil {
		return nil, err
	}
	if claims == nil {
		return nil, errors.New("null")
	}
	return claims, nil
}

// errNotAdmitted is the verdict on every method for who is not let in at all.
var errNotAdmitted = fault.New(fault.Unauthenticated, "NOT_ADMITTED", "the identity is not admitted").
	WithNext("see the step that refused it")

// verdict decides about one method.
func (s *Service) verdict(a Authorizer, p *principal.Principal, method, workspace string) Verdict {
	rule, _ := a.Table().Rule(method)
	v := Verdict{Method: method, Rule: rule}
	if p == nil {
		if rule.Mode != authz.Unauthenticated {
			v.Refusal = errNotAdmitted
		}
		return v
	}
	if err := a.Decide(p, method, workspace); err != nil {
		v.Refusal = fault.From(err)
	}
	return v
}

// Change is what another configuration would do to one identity.
type Change struct {
	Issuer, Subject, DisplayName string
	Lost, Gained                 []string
	// Refused is why the identity would not be admitted, or why that cannot be told; empty if it would be.
	Refused string
}

// Preview tells whose access a configuration file would change, among the identities that the gateway has seen, and
// how many would keep theirs.
func (s *Service) Preview(_ context.Context, file []byte) (changes []Change, unchanged int, err error) {
	if s.cfg.Candidate == nil {
		return nil, 0, fault.New(fault.FailedPrecondition, ReasonNewRules, "this gateway cannot read another configuration").
			WithNext("start it with the program that ships")
	}
	next, err := s.cfg.Candidate(file)
	if err != nil {
		return nil, 0, fault.New(fault.InvalidArgument, ReasonNewRules, "the gateway would not start with this configuration: %s", shortened(err.Error())).
			WithNext("see `sallyport-gateway config check`")
	}
	for seen := range s.cfg.Identities.EachSeen() {
		change := s.compare(seen, next)
		if change.Refused == "" && len(change.Lost) == 0 && len(change.Gained) == 0 {
			unchanged++
		} else if len(changes) < MaxChanges {
			changes = append(changes, change)
		}
	}
	return changes, unchanged, nil
}

func (s *Service) compare(seen *oidc.Seen, next *Candidate) Change {
	before, _, _ := s.cfg.Identities.Rules().EvaluateSeen(seen, time.Time{})
	after, _, refusal := next.Rules.EvaluateSeen(seen, time.Time{})
	c := Change{Issuer: seen.Issuer, Subject: seen.Subject}
	for _, p := range []*principal.Principal{after, before} {
		if p != nil {
			c.DisplayName = p.DisplayName
		}
	}
	if missing := next.Rules.Missing(seen); len(missing) > 0 {
		c.Refused = "cannot be told: the gateway kept no claim " + strings.Join(missing, ", ")
	} else if before != nil && refusal != nil {
		c.Refused = fault.From(refusal).Message
	}
	now := s.cfg.Authorizer()
	for _, m := range now.Table().Methods() {
		was := s.verdict(now, before, m, "").Refusal == nil
		will := s.verdict(next.Authorizer, after, m, "").Refusal == nil
		switch {
		case was && !will:
			c.Lost = append(c.Lost, m)
		case !was && will:
			c.Gained = append(c.Gained, m)
		}
	}
	slices.Sort(c.Lost)
	slices.Sort(c.Gained)
	return c
}

func shortened(s string) string {
	const most = 1000
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
