package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Bounds of one call. QPS and burst keep a storm of creates from using up the API server's patience with us.
const (
	DefaultTimeout = 30 * time.Second
	callsPerSecond = 400
	callsAtOnce    = 800
	// maxAnswer bounds the answer to a call about one object; etcd stores none above some 1.5 MiB.
	maxAnswer = 8 << 20
)

// Config says which API server to talk to.
type Config struct {
	// Kubeconfig is the path of a kubeconfig file; empty means the service account of the pod that this runs in.
	Kubeconfig string
	// UserAgent names the driver in the API server's audit log.
	UserAgent string
	// Timeout bounds each call; 0 means DefaultTimeout. Watches end by themselves.
	Timeout time.Duration
}

// Client talks to one API server. It is safe for concurrent use; its errors are those of the API, see Explain.
type Client struct {
	rest    rest.Interface
	timeout time.Duration
}

// New reads the configuration. The API server may be away.
func New(c Config) (*Client, error) {
	cfg, err := load(c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	cfg.UserAgent = c.UserAgent
	cfg.QPS, cfg.Burst = callsPerSecond, callsAtOnce
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.AcceptContentTypes, cfg.ContentType = "application/json", "application/json"
	cfg.GroupVersion = &schema.GroupVersion{Version: "v1"}
	// Warnings of the API server are about fields that users chose; they are no news for the driver's log.
	cfg.WarningHandler = rest.NoWarnings{}
	client, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("set up Kubernetes client: %w", err)
	}
	return &Client{rest: client, timeout: c.Timeout}, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
		}
		return cfg, nil
	}
	cfg, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("this is no pod: give --kubeconfig")
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the pod has no service account token (%w): mount one into the driver's container", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the pod's service account: %w", err)
	}
	return cfg, nil
}

// Resource is a kind of objects: the group and version as in a path, for example "v1" or "agents.x-k8s.io/v1beta1",
// and the plural name.
type Resource struct {
	GroupVersion string
	Plural       string
}

// path returns the path of the resource's objects: all with an empty namespace, those of a namespace, or one object.
func (r Resource) path(namespace, name string) string {
	var b strings.Builder
	if strings.Contains(r.GroupVersion, "/") {
		b.WriteString("/apis/")
	} else {
		b.WriteString("/api/")
	}
	b.WriteString(r.GroupVersion)
	if namespace != "" {
		b.WriteString("/namespaces/" + url.PathEscape(namespace))
	}
	b.WriteString("/" + r.Plural)
	if name != "" {
		b.WriteString("/" + url.PathEscape(name))
	}
	return b.String()
}

// String is the resource as in a rule of permissions, "sandboxes.agents.x-k8s.io".
func (r Resource) String() string {
	if group, _, ok := strings.Cut(r.GroupVersion, "/"); ok {
		return r.Plural + "." + group
	}
	return r.Plural
}

// Get reads one object into out.
func (c *Client) Get(ctx context.Context, r Resource, namespace, name string, out any) error {
	return c.read(ctx, r.path(namespace, name), out)
}

// GetPath reads what is at a path that is no object, such as a list of versions, into out.
func (c *Client) GetPath(ctx context.Context, path string, out any) error {
	return c.read(ctx, path, out)
}

func (c *Client) read(ctx context.Context, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	raw, err := answer(c.rest.Get().AbsPath(path).Do(ctx))
	if err != nil {
		return err
	}
	return decode(path, raw, out)
}

// Create makes an object that must not be there yet, as the field manager.
func (c *Client) Create(ctx context.Context, r Resource, namespace, manager string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode %s: %w", r, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, err = answer(c.rest.Post().AbsPath(r.path(namespace, "")).Param("fieldManager", manager).Body(body).Do(ctx))
	return err
}

// Apply creates or changes an object by server-side apply: object is encoded as JSON and must name itself. manager
// owns the fields; with force it takes those of others, else a conflict is the error. created tells that there was
// no such object before. What the server made of it is read into out unless that is nil.
func (c *Client) Apply(ctx context.Context, r Resource, namespace, name, manager string, force bool, object, out any) (created bool, err error) {
	body, err := json.Marshal(object)
	if err != nil {
		return false, fmt.Errorf("encode %s: %w", r, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req := c.rest.Patch(types.ApplyPatchType).AbsPath(r.path(namespace, name)).Param("fieldManager", manager).Body(body)
	if force {
		req = req.Param("force", "true")
	}
	code := 0
	raw, err := answer(req.Do(ctx).StatusCode(&code))
	if err != nil {
		return false, err
	}
	if out != nil {
		err = decode(r.path(namespace, name), raw, out)
	}
	return code == 201, err
}

// Precondition names the very object that a deletion is meant for. Empty fields are not checked.
type Precondition struct {
	UID             string
	ResourceVersion string
}

// Delete removes an object. With foreground it goes when all that belongs to it has gone.
func (c *Client) Delete(ctx context.Context, r Resource, namespace, name string, pre Precondition, foreground bool) error {
	policy := metav1.DeletePropagationBackground
	if foreground {
		policy = metav1.DeletePropagationForeground
	}
	opts := metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		PropagationPolicy: &policy,
	}
	if pre != (Precondition{}) {
		opts.Preconditions = &metav1.Preconditions{}
		if pre.UID != "" {
			uid := types.UID(pre.UID)
			opts.Preconditions.UID = &uid
		}
		if pre.ResourceVersion != "" {
			opts.Preconditions.ResourceVersion = &pre.ResourceVersion
		}
	}
	body, err := json.Marshal(opts)
	if err != nil {
		return fmt.Errorf("encode deletion: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, err = answer(c.rest.Delete().AbsPath(r.path(namespace, name)).Body(body).Do(ctx))
	return err
}

// answer reads a whole answer. The client's own text of a failure is that of the API.
func answer(result rest.Result) ([]byte, error) {
	raw, err := result.Raw()
	if err != nil {
		// Raw leaves the API's own words out; Error has them.
		if full := result.Error(); full != nil {
			err = full
		}
		return nil, err
	}
	if len(raw) > maxAnswer {
		return nil, fmt.Errorf("answer of %d bytes, at most %d are read", len(raw), maxAnswer)
	}
	return raw, nil
}

func decode(path string, raw []byte, out any) error {
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: answer is not what was asked for: %w", path, err)
	}
	return nil
}

// open begins an answer that is read piece by piece.
func (c *Client) open(ctx context.Context, path string, params url.Values) (io.ReadCloser, error) {
	req := c.rest.Get().AbsPath(path)
	for name, values := range params {
		for _, v := range values {
			req = req.Param(name, v)
		}
	}
	return req.Stream(ctx)
}

// IsNotFound tells that an object, or its kind, is not there.
func IsNotFound(err error) bool { return apierrors.IsNotFound(err) }

// IsAlreadyExists tells that an object of this name is there.
func IsAlreadyExists(err error) bool { return apierrors.IsAlreadyExists(err) }

// IsConflict tells that an object is another one or another version than a precondition says, or that a field
// belongs to another manager.
func IsConflict(err error) bool { return apierrors.IsConflict(err) }
