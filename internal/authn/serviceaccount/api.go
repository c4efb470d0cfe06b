package serviceaccount

import (
	"context"
	"net/http"

	"sallyport.dev/sallyport/internal/kubeclient"
)

// Words of the Kubernetes API and of the objects that compute drivers make there.
const (
	usernamePrefix    = "system:serviceaccount:"
	extraPodName      = "authentication.kubernetes.io/pod-name"
	extraPodUID       = "authentication.kubernetes.io/pod-uid"
	annotationSandbox = "openshell.io/sandbox-id"
	labelSandbox      = "openshell.ai/sandbox-id"
	kindSandbox       = "Sandbox"
)

// sandboxVersions are the API versions of Sandbox objects, the newer first.
var sandboxVersions = []string{"agents.x-k8s.io/v1beta1", "agents.x-k8s.io/v1alpha1"}

// tokenReview is as much of a TokenReview as is needed.
type tokenReview struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Spec       reviewSpec   `json:"spec"`
	Status     reviewStatus `json:"status,omitzero"`
}

type reviewSpec struct {
	Token     string   `json:"token"`
	Audiences []string `json:"audiences"`
}

type reviewStatus struct {
	Authenticated bool     `json:"authenticated"`
	User          user     `json:"user"`
	Audiences     []string `json:"audiences"`
}

type user struct {
	Username string              `json:"username"`
	Extra    map[string][]string `json:"extra"`
}

// object is as much of a pod or a Sandbox object as is needed.
type object struct {
	Metadata struct {
		UID             string            `json:"uid"`
		Labels          map[string]string `json:"labels"`
		Annotations     map[string]string `json:"annotations"`
		OwnerReferences []ownerReference  `json:"ownerReferences"`
	} `json:"metadata"`
}

type ownerReference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// api makes the calls.
type api struct{ client *kubeclient.Client }

func newAPI(c Config) (*api, error) {
	client, err := kubeclient.New(kubeclient.Config{URL: c.APIURL, CAPath: c.CAPath, TokenPath: c.TokenPath, Timeout: c.Timeout, Env: c.Env})
	if err != nil {
		return nil, err
	}
	return &api{client: client}, nil
}

// review asks whose token it is.
func (a *api) review(ctx context.Context, token, audience string) (reviewStatus, error) {
	in := tokenReview{
		APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview",
		Spec: reviewSpec{Token: token, Audiences: []string{audience}},
	}
	var out tokenReview
	err := a.client.Call(ctx, http.MethodPost, "apis/authentication.k8s.io/v1/tokenreviews", in, &out)
	return out.Status, err
}

func (a *api) pod(ctx context.Context, namespace, name string) (*object, error) {
	var out object
	return &out, a.client.Call(ctx, http.MethodGet, "api/v1/namespaces/"+namespace+"/pods/"+name, nil, &out)
}

func (a *api) sandbox(ctx context.Context, version, namespace, name string) (*object, error) {
	var out object
	return &out, a.client.Call(ctx, http.MethodGet, "apis/"+version+"/namespaces/"+namespace+"/sandboxes/"+name, nil, &out)
}

func (a *api) close() { a.client.Close() }
