// Package serviceaccount finds out for which sandbox a pod speaks: it has Kubernetes review the pod's service account
// token and follows the pod to the Sandbox object that owns it. It knows the few calls of the Kubernetes API that this
// takes, and must not know what the sandbox may do. Nothing that the API says reaches a caller.
package serviceaccount

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/authn/tokencache"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/kubeclient"
	"sallyport.dev/sallyport/internal/principal"
)

// Defaults inside a cluster, and of the contract.
const (
	DefaultAudience  = "openshell-gateway"
	DefaultCAPath    = kubeclient.DefaultCAPath
	DefaultTokenPath = kubeclient.DefaultTokenPath
)

// Bounds of the work that pods can make for us and for the API server.
const (
	// defaultTimeout bounds one call; one authentication, which takes up to four, has three times that.
	defaultTimeout = 5 * time.Second
	timeoutsInAll  = 3
	// concurrent bounds authentications at the same time; those beyond wait, at most waiting.
	concurrent = 16
	waiting    = 2 * time.Second
	// refusedFor is how long a refusal stands without asking again.
	refusedFor  = 5 * time.Second
	refusedSize = 4096
	maxToken    = 16 << 10
)

// Stable reasons of refusals.
const (
	ReasonAPI          = "KUBERNETES_API"
	ReasonBusy         = "KUBERNETES_BUSY"
	ReasonAudience     = "SERVICE_ACCOUNT_AUDIENCE"
	ReasonAccount      = "SERVICE_ACCOUNT_NOT_ACCEPTED"
	ReasonPodNotFound  = "POD_NOT_FOUND"
	ReasonPod          = "POD_NOT_ACCEPTED"
	ReasonSandboxOwner = "SANDBOX_OWNER_NOT_ACCEPTED"
)

// Config says whom to ask and which pods to believe.
type Config struct {
	// APIURL is the base URL of the API server, https only; empty takes it from the variables that every pod has.
	APIURL string
	// CAPath is the file of the API server's authorities, TokenPath that of the gateway's own token; empty means the
	// files that every pod has. Both are read again when they change.
	CAPath, TokenPath string
	// Audience is what pods' tokens must be made for; empty means DefaultAudience.
	Audience string
	// ServiceAccount is the name that the pods' accounts have. It must not be empty.
	ServiceAccount string
	// Namespaces and NamespacePrefix say where sandboxes' pods are: in one of the first, or in one that begins with the
	// second. At least one must be set.
	Namespaces      []string
	NamespacePrefix string
	// Timeout bounds each call to the API server; 0 means five seconds.
	Timeout time.Duration
	// Env looks up variables; nil is os.LookupEnv. Now is the clock; nil is time.Now. A nil Logger discards.
	Env    func(string) (string, bool)
	Now    func() time.Time
	Logger *slog.Logger
}

// Authenticator is safe for concurrent use.
type Authenticator struct {
	c       Config
	api     *api
	slots   chan struct{}
	refused *tokencache.Cache[error]
}

// New checks the configuration. The API server may be away.
func New(c Config) (*Authenticator, error) {
	if c.Env == nil {
		c.Env = os.LookupEnv
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Audience == "" {
		c.Audience = DefaultAudience
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.ServiceAccount == "" {
		return nil, errors.New("set up Kubernetes identity: the name of the pods' service account is missing")
	}
	if len(c.Namespaces) == 0 && c.NamespacePrefix == "" {
		return nil, errors.New("set up Kubernetes identity: no namespaces of sandboxes are named")
	}
	if slices.Contains(c.Namespaces, "") {
		return nil, errors.New("set up Kubernetes identity: a namespace has an empty name")
	}
	client, err := newAPI(c)
	if err != nil {
		return nil, fmt.Errorf("set up Kubernetes identity: %w", err)
	}
	return &Authenticator{
		c: c, api: client, slots: make(chan struct{}, concurrent), refused: tokencache.New[error](refusedSize),
	}, nil
}

// Close releases idle connections to the API server.
func (a *Authenticator) Close() { a.api.close() }

// errNotKnown stands among the remembered refusals for a token that Kubernetes does not know.
var errNotKnown = errors.New("token is not known to Kubernetes")

// Authenticate returns the sandbox that the pod of a service account token belongs to. It returns nil and nil for what
// is no such token or is not known to Kubernetes. Errors are faults: Internal where the API failed, Unavailable where
// too many ask, NotFound where the pod is gone, Unauthenticated for another audience, else PermissionDenied.
func (a *Authenticator) Authenticate(ctx context.Context, token string) (*principal.Principal, error) {
	claims, ok := claimsOf(token)
	if !ok {
		// Tokens of others are none of Kubernetes' business.
		return nil, nil
	}
	key := tokencache.KeyOf(token)
	if refusal, _, ok := a.refused.Get(key, 0, a.c.Now()); ok {
		return nil, known(refusal)
	}
	ctx, cancel := context.WithTimeout(ctx, timeoutsInAll*a.c.Timeout)
	defer cancel()
	if err := a.enter(ctx); err != nil {
		return nil, err
	}
	defer func() { <-a.slots }()
	sandboxID, pod, err := a.decide(ctx, token)
	switch {
	case err == nil:
		return &principal.Principal{
			Kind: principal.Sandbox, SandboxID: sandboxID, DisplayName: pod, Source: principal.SourceServiceAccount,
			Issued: claims.issued(), Expires: claims.expires(),
		}, nil
	case errors.Is(err, errNotKnown) || !fault.Is(err, fault.Internal):
		a.refused.Put(key, 0, err, a.c.Now().Add(refusedFor))
	}
	return nil, known(err)
}

// known turns the mark for an unknown token into no opinion.
func known(err error) error {
	if errors.Is(err, errNotKnown) {
		return nil
	}
	return err
}

// enter waits for one of the slots.
func (a *Authenticator) enter(ctx context.Context) error {
	timer := time.NewTimer(waiting)
	defer timer.Stop()
	select {
	case a.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fault.Wrap(ctx.Err(), fault.Canceled, ReasonBusy, "the caller went away")
	case <-timer.C:
		return fault.New(fault.Unavailable, ReasonBusy, "too many pods ask for their identity").WithNext("retry in some seconds")
	}
}

// decide makes all checks in the order that the newer 0.0.x generation fixed. It returns the sandbox's id and the
// pod's name.
func (a *Authenticator) decide(ctx context.Context, token string) (sandboxID, podName string, err error) {
	review, err := a.api.review(ctx, token, a.c.Audience)
	if err != nil {
		return "", "", a.failed(err)
	}
	if !review.Authenticated {
		return "", "", errNotKnown
	}
	if !slices.Contains(review.Audiences, a.c.Audience) {
		return "", "", fault.New(fault.Unauthenticated, ReasonAudience, "invalid token: not made for this gateway").
			WithNext("project the pod's token with the audience %q", a.c.Audience)
	}
	namespace, podName, podUID, err := a.account(review.User)
	if err != nil {
		return "", "", err
	}
	p, err := a.api.pod(ctx, namespace, podName)
	switch {
	case errors.Is(err, kubeclient.ErrNotFound):
		return "", "", fault.New(fault.NotFound, ReasonPodNotFound, "pod not found").WithNext("the pod of this token is gone")
	case err != nil:
		return "", "", a.failed(err)
	case p.Metadata.UID != podUID:
		return "", "", denied(ReasonPod, "pod is not the one that the token was made for")
	}
	sandboxID = p.Metadata.Annotations[annotationSandbox]
	if !validID(sandboxID) {
		return "", "", denied(ReasonPod, "pod names no sandbox")
	}
	if err := a.owner(ctx, namespace, sandboxID, p); err != nil {
		return "", "", err
	}
	return sandboxID, namespace + "/" + podName, nil
}

// account checks who the token belongs to and returns where its pod is.
func (a *Authenticator) account(u user) (namespace, podName, podUID string, err error) {
	rest, ok := strings.CutPrefix(u.Username, usernamePrefix)
	namespace, name, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || !validName(namespace) || !validName(name) {
		return "", "", "", denied(ReasonAccount, "token is not of a service account")
	}
	if name != a.c.ServiceAccount {
		return "", "", "", denied(ReasonAccount, "service account is not the one of sandboxes")
	}
	if !slices.Contains(a.c.Namespaces, namespace) &&
		(a.c.NamespacePrefix == "" || !strings.HasPrefix(namespace, a.c.NamespacePrefix)) {
		return "", "", "", denied(ReasonAccount, "namespace is not one of sandboxes")
	}
	podNames, podUIDs := u.Extra[extraPodName], u.Extra[extraPodUID]
	if len(podNames) != 1 || !validName(podNames[0]) || len(podUIDs) != 1 || podUIDs[0] == "" {
		return "", "", "", denied(ReasonPod, "token is not bound to one pod")
	}
	return namespace, podNames[0], podUIDs[0], nil
}

// owner checks that the pod is controlled by a Sandbox object that says the same as the pod.
func (a *Authenticator) owner(ctx context.Context, namespace, sandboxID string, p *object) error {
	var owner *ownerReference
	for n := range p.Metadata.OwnerReferences {
		if !p.Metadata.OwnerReferences[n].Controller {
			continue
		}
		if owner != nil {
			return denied(ReasonSandboxOwner, "pod has more than one controller")
		}
		owner = &p.Metadata.OwnerReferences[n]
	}
	if owner == nil || owner.Kind != kindSandbox || !slices.Contains(sandboxVersions, owner.APIVersion) || !validName(owner.Name) {
		return denied(ReasonSandboxOwner, "pod is not controlled by a sandbox")
	}
	versions := []string{owner.APIVersion}
	for _, v := range sandboxVersions {
		if v != owner.APIVersion {
			versions = append(versions, v)
		}
	}
	for _, version := range versions {
		s, err := a.api.sandbox(ctx, version, namespace, owner.Name)
		switch {
		case errors.Is(err, kubeclient.ErrNotFound):
			continue
		case err != nil:
			return a.failed(err)
		case owner.UID == "" || s.Metadata.UID != owner.UID:
			return denied(ReasonSandboxOwner, "sandbox object is not the one that the pod belongs to")
		case s.Metadata.Labels[labelSandbox] != sandboxID:
			return denied(ReasonSandboxOwner, "sandbox object and pod name different sandboxes")
		}
		return nil
	}
	return denied(ReasonSandboxOwner, "sandbox object not found")
}

func denied(reason, message string) error {
	return fault.New(fault.PermissionDenied, reason, "%s", message).
		WithNext("only pods that the gateway's compute driver made get a sandbox token")
}

// failed words a failure of the API; what it said is for the log alone.
func (a *Authenticator) failed(err error) error {
	return fault.Wrap(err, fault.Internal, ReasonAPI, "the pod's identity cannot be checked").
		WithNext("retry; if it stays, the gateway's operator finds the cause in its log")
}

// claims are what a token says of itself. They are believed only once Kubernetes has vouched for the token.
type claims struct {
	Subject  string  `json:"sub"`
	IssuedAt float64 `json:"iat"`
	Expires  float64 `json:"exp"`
}

func (c claims) issued() time.Time  { return timeOf(c.IssuedAt) }
func (c claims) expires() time.Time { return timeOf(c.Expires) }

func timeOf(seconds float64) time.Time {
	if seconds < 1 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// claimsOf tells whether the token looks like a service account's. It keeps the tokens of users, and noise, from being
// sent to the API server.
func claimsOf(token string) (claims, bool) {
	var c claims
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return c, false
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || json.Unmarshal(raw, &c) != nil || !strings.HasPrefix(c.Subject, usernamePrefix) {
		return claims{}, false
	}
	return c, true
}

// validName accepts the names of objects: lower-case DNS names, which cannot mean anything else in a path.
func validName(name string) bool {
	if name == "" || len(name) > 253 || name[0] == '.' || name[0] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// validID accepts ids of sandboxes.
func validID(id string) bool {
	if id == "" || len(id) > 128 || strings.Trim(id, ".") == "" {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
