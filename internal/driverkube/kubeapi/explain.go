package kubeapi

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sallyport.dev/sallyport/internal/fault"
)

// Stable reasons of failures of the API, as faults.
const (
	ReasonUnavailable = "KUBERNETES_UNAVAILABLE"
	ReasonPermission  = "KUBERNETES_PERMISSION_MISSING"
	ReasonQuota       = "QUOTA_EXCEEDED"
	ReasonRefused     = "KUBERNETES_REFUSED"
	ReasonNoNamespace = "NAMESPACE_MISSING"
	ReasonNoCRD       = "SANDBOX_CRD_MISSING"
	ReasonFailed      = "KUBERNETES_FAILED"
)

// maxWords bounds how much of the API's own words a message repeats.
const maxWords = 1024

// Explain turns a failure of the API into a fault: what was attempted, what is wrong, and what to do. doing is a verb
// phrase, for example "create sandbox". A fault, and what is no failure of the API, stays as it is.
func Explain(doing string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		// No answer: time ran out, or the connection failed.
		return fault.Wrap(err, fault.Unavailable, ReasonUnavailable, "%s: the Kubernetes API does not answer", doing).
			WithNext("try again; if it stays, the driver's log has the cause")
	}
	return explainStatus(doing, status)
}

func explainStatus(doing string, err *apierrors.StatusError) error {
	s := err.ErrStatus
	words := Clean(s.Message)
	switch {
	case apierrors.IsForbidden(err):
		return explainForbidden(doing, err, words)
	case apierrors.IsUnauthorized(err):
		return fault.Wrap(err, fault.Unavailable, ReasonUnavailable, "%s: the Kubernetes API does not accept the driver's credential", doing).
			WithNext("check that the driver's pod has a service account token and that the account exists")
	case apierrors.IsInvalid(err):
		return fault.Wrap(err, fault.FailedPrecondition, ReasonRefused, "%s: Kubernetes refuses the object: %s", doing, fieldsOf(s, words)).
			WithNext("change what the message names in the sandbox's template")
	case apierrors.IsRequestEntityTooLargeError(err):
		return fault.Wrap(err, fault.FailedPrecondition, ReasonRefused, "%s: the object is too large for Kubernetes", doing).
			WithNext("give the sandbox a smaller environment or command")
	case apierrors.IsNotFound(err):
		return explainNotFound(doing, err, words)
	case s.Code == http.StatusBadRequest, s.Code == http.StatusUnsupportedMediaType, s.Code == http.StatusMethodNotAllowed:
		return fault.Wrap(err, fault.FailedPrecondition, ReasonRefused, "%s: Kubernetes refuses the request: %s", doing, words).
			WithNext("check the sandbox's template; if it is sound, the driver and the cluster's version do not fit")
	case s.Code == http.StatusTooManyRequests, s.Code >= http.StatusInternalServerError, apierrors.IsTimeout(err):
		return fault.Wrap(err, fault.Unavailable, ReasonUnavailable, "%s: the Kubernetes API is busy or failing", doing).
			WithNext("try again; if it stays, look at the API server")
	}
	return fault.Wrap(err, fault.Internal, ReasonFailed, "%s: Kubernetes answered with %q", doing, s.Reason).
		WithNext("the driver's log has the cause")
}

// permission finds verb, resource and namespace in the API's text of a missing permission.
var permission = regexp.MustCompile(`cannot (\w+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]+)")?`)

func explainForbidden(doing string, err *apierrors.StatusError, words string) error {
	message := err.ErrStatus.Message
	if quota, ok := Quota(message); ok {
		return fault.Wrap(err, fault.ResourceExhausted, ReasonQuota, "%s: %s", doing, quota).
			WithNext("delete sandboxes that are not needed, ask for less, or have the quota raised")
	}
	if m := permission.FindStringSubmatch(message); m != nil {
		resource := m[2]
		if m[3] != "" {
			resource += "." + m[3]
		}
		where := "in the cluster"
		if m[4] != "" {
			where = "in namespace " + m[4]
		}
		return fault.Wrap(err, fault.FailedPrecondition, ReasonPermission, "%s: the driver's service account may not %s %s %s", doing, m[1], resource, where).
			WithNext("grant the verb %q on %s %s to the driver's service account", m[1], resource, where)
	}
	for _, cause := range causesOf(err.ErrStatus) {
		if cause.Type == "NamespaceTerminating" {
			return fault.Wrap(err, fault.FailedPrecondition, ReasonNoNamespace, "%s: the namespace is being deleted", doing).
				WithNext("wait until it is gone, then try again")
		}
	}
	return fault.Wrap(err, fault.FailedPrecondition, ReasonRefused, "%s: the cluster's rules refuse the object: %s", doing, words).
		WithNext("change what the message names, or have the cluster's rule changed")
}

func explainNotFound(doing string, err *apierrors.StatusError, words string) error {
	details := err.ErrStatus.Details
	switch {
	case details != nil && details.Kind == "namespaces":
		return fault.Wrap(err, fault.FailedPrecondition, ReasonNoNamespace, "%s: namespace %q does not exist", doing, details.Name).
			WithNext("create the namespace, or start the driver with another --namespace")
	case details == nil || details.Name == "":
		return fault.Wrap(err, fault.FailedPrecondition, ReasonNoCRD, "%s: the cluster has no Sandbox objects (agents.x-k8s.io)", doing).
			WithNext("install the agent-sandbox controller with its custom resource definitions")
	}
	return fault.Wrap(err, fault.NotFound, ReasonFailed, "%s: %s", doing, words)
}

func causesOf(s metav1.Status) []metav1.StatusCause {
	if s.Details == nil {
		return nil
	}
	return s.Details.Causes
}

// fieldsOf words what is wrong field by field, as far as the API tells.
func fieldsOf(s metav1.Status, words string) string {
	var parts []string
	for _, c := range causesOf(s) {
		if c.Field == "" || len(parts) == 8 {
			continue
		}
		parts = append(parts, c.Field+": "+Clean(c.Message))
	}
	if len(parts) == 0 {
		return words
	}
	return Clean(strings.Join(parts, "; "))
}

// quota finds the part of the API's text that is about a quota: it begins with an object's name that says nothing new.
var quota = regexp.MustCompile(`exceeded quota: ([^,]+), requested: (.+), used: (.+), limited: ([^;]+)`)

// Quota tells whether a text of the API is about a quota, and words it: which quota, asked for, used and allowed.
func Quota(text string) (string, bool) {
	if m := quota.FindStringSubmatch(text); m != nil {
		return Clean("quota " + m[1] + " exceeded: asked for " + m[2] + ", in use " + m[3] + ", allowed " + m[4]), true
	}
	if at := strings.Index(text, "failed quota: "); at >= 0 {
		return Clean("quota not met: " + text[at+len("failed quota: "):]), true
	}
	return "", false
}

// Clean makes the API's words fit for a message: one line, bounded, no control characters.
func Clean(words string) string {
	words = strings.Join(strings.FieldsFunc(words, func(r rune) bool { return r < 0x20 || r == ' ' || r == 0x7f }), " ")
	if len(words) > maxWords {
		words = strings.ToValidUTF8(words[:maxWords], "") + "…"
	}
	return strings.TrimSuffix(words, ".")
}
