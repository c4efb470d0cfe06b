package kubeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sallyport.dev/sallyport/internal/fault"
)

type item struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

func (i *item) Version() string { return i.Metadata.ResourceVersion }

func TestDecodeList(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, names, version string
		fails                bool
	}{
		"metadata first": {`{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`, "a b", "7", false},
		"metadata last":  {`{"kind":"List","items":[{"metadata":{"name":"a"},"more":{"deep":[1]}}],"metadata":{"resourceVersion":"8","continue":"x"}}`, "a", "8", false},
		"no items":       {`{"items":null,"metadata":{"resourceVersion":"9"}}`, "", "9", false},
		"empty":          {`{"items":[]}`, "", "", false},
		"cut":            {`{"items":[{"metadata":{"name":"a"}},`, "a", "", true},
		"no list":        {`{"items":{"a":1}}`, "", "", true},
		"an array":       {`[]`, "", "", true},
		"nothing":        {``, "", "", true},
	} {
		var names []string
		meta, err := decodeList(strings.NewReader(c.text), func(i *item) { names = append(names, i.Metadata.Name) })
		if (err != nil) != c.fails || strings.Join(names, " ") != c.names || meta.ResourceVersion != c.version {
			t.Errorf("%s: %v %v %v", name, names, meta, err)
		}
	}
}

func FuzzDecodeList(f *testing.F) {
	f.Add([]byte(`{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}]}`))
	f.Add([]byte(`{"items":null}`))
	f.Add([]byte(`{"items":[{},`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := 0
		_, err := decodeList(bytes.NewReader(raw), func(i *item) {
			if i != nil {
				n++
			}
		})
		if err == nil && !json.Valid(raw) && json.Valid(raw[:len(raw)/2]) {
			t.Log("a list with more behind it")
		}
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	status := func(code int32, reason metav1.StatusReason, message string, details *metav1.StatusDetails) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Code: code, Reason: reason, Message: message, Details: details}}
	}
	for name, c := range map[string]struct {
		err          error
		kind         fault.Kind
		reason, text string
	}{
		"no answer": {errors.New("dial tcp: secret"), fault.Unavailable, ReasonUnavailable, "does not answer"},
		"no namespace": {
			status(404, metav1.StatusReasonNotFound, "", &metav1.StatusDetails{Kind: "namespaces", Name: "n"}),
			fault.FailedPrecondition, ReasonNoNamespace, `namespace "n" does not exist`,
		},
		"no definition": {status(404, metav1.StatusReasonNotFound, "could not find the requested resource", &metav1.StatusDetails{}), fault.FailedPrecondition, ReasonNoCRD, "no Sandbox objects"},
		"terminating": {
			status(403, metav1.StatusReasonForbidden, "because it is being terminated", &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "NamespaceTerminating"}}}),
			fault.FailedPrecondition, ReasonNoNamespace, "being deleted",
		},
		"fields": {
			status(422, metav1.StatusReasonInvalid, "Sandbox is invalid", &metav1.StatusDetails{Causes: []metav1.StatusCause{{Field: "spec.a", Message: "Invalid\nvalue"}, {Field: "spec.b", Message: "Required"}}}),
			fault.FailedPrecondition, ReasonRefused, "spec.a: Invalid value; spec.b: Required",
		},
		"cluster permission": {
			status(403, metav1.StatusReasonForbidden, `namespaces is forbidden: User "u" cannot list resource "namespaces" in API group "" at the cluster scope`, nil),
			fault.FailedPrecondition, ReasonPermission, "may not list namespaces in the cluster",
		},
		"failed quota": {status(403, metav1.StatusReasonForbidden, "pods is forbidden: failed quota: q: must specify limits.cpu for: agent", nil), fault.ResourceExhausted, ReasonQuota, "must specify limits.cpu"},
		"busy":         {status(429, metav1.StatusReasonTooManyRequests, "", nil), fault.Unavailable, ReasonUnavailable, "busy"},
		"strange":      {status(418, "Teapot", "", nil), fault.Internal, ReasonFailed, "Teapot"},
		"a fault":      {fault.New(fault.NotFound, "X", "as it is"), fault.NotFound, "X", "as it is"},
	} {
		f := fault.From(Explain("do it", c.err))
		if f.Kind != c.kind || f.Reason != c.reason || !strings.Contains(f.Message, c.text) || strings.Contains(f.Message+f.Next, "secret") {
			t.Errorf("%s: %d %s %q", name, f.Kind, f.Reason, f.Message)
		}
		if name != "a fault" && f.Next == "" {
			t.Errorf("%s: no next step", name)
		}
	}
	if got := Clean(strings.Repeat("ü", maxWords)); len(got) > maxWords+3 || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("%d bytes", len(got))
	}
}
