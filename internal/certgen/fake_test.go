package certgen_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sallyport.dev/sallyport/internal/kubeclient"
)

// canary stands in what the server says; it must get into no error.
const canary = "canary-text-of-the-api"

type object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Type       string   `json:"type"`
	// Other stands for whatever else an object has, which must survive.
	Other string            `json:"other,omitempty"`
	Data  map[string][]byte `json:"data"`
}

type metadata struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	ResourceVersion string            `json:"resourceVersion"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

// cluster is an API server that knows Secrets.
type cluster struct {
	mu      sync.Mutex
	secrets map[string]*object
	version int
	// deny answers a verb on a name with a status.
	deny map[string]int
	// before runs once before the first real write, as somebody who is quicker.
	before func(c *cluster)
	writes []string
	server *httptest.Server
	dir    string
}

const prefix = "/api/v1/namespaces/agents/secrets"

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{secrets: map[string]*object{}, deny: map[string]int{}, dir: t.TempDir()}
	c.server = httptest.NewUnstartedServer(c)
	c.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.server.Certificate().Raw})
	for name, data := range map[string][]byte{"ca.crt": ca, "token": []byte("own-token")} {
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cluster) client(t *testing.T) *kubeclient.Client {
	t.Helper()
	client, err := kubeclient.New(kubeclient.Config{
		URL: c.server.URL, CAPath: filepath.Join(c.dir, "ca.crt"), TokenPath: filepath.Join(c.dir, "token"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer own-token" {
		refuse(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, prefix)
	name := strings.TrimPrefix(rest, "/")
	dry := r.URL.Query().Get("dryRun") == "All"
	var in object
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			refuse(w, http.StatusBadRequest, "BadRequest")
			return
		}
		if name == "" {
			name = in.Metadata.Name
		}
		if c.before != nil && !dry {
			before := c.before
			c.before = nil
			before(c)
		}
	}
	if code := c.deny[r.Method+" "+name]; code != 0 {
		refuse(w, code, "Denied")
		return
	}
	was := c.secrets[name]
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "NotFound")
	case r.Method == http.MethodGet && was != nil:
		answer(w, http.StatusOK, was)
	case r.Method == http.MethodGet, r.Method == http.MethodPatch && was == nil:
		refuse(w, http.StatusNotFound, "NotFound")
	case r.Method == http.MethodPost && was != nil:
		refuse(w, http.StatusConflict, "AlreadyExists")
	case r.Method == http.MethodPost && r.Header.Get("Content-Type") == "application/json":
		c.store(w, name, &in, dry, "create")
	case r.Method == http.MethodPatch && in.Metadata.ResourceVersion != was.Metadata.ResourceVersion:
		refuse(w, http.StatusConflict, "Conflict")
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/merge-patch+json":
		next := *was
		next.Data, next.Metadata.Labels = maps.Clone(was.Data), maps.Clone(was.Metadata.Labels)
		maps.Copy(next.Data, in.Data)
		maps.Copy(next.Metadata.Labels, in.Metadata.Labels)
		c.store(w, name, &next, dry, "patch")
	default:
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed")
	}
}

func (c *cluster) store(w http.ResponseWriter, name string, o *object, dry bool, verb string) {
	if o.Type == "kubernetes.io/tls" && (len(o.Data["tls.crt"]) == 0 || len(o.Data["tls.key"]) == 0) {
		refuse(w, http.StatusUnprocessableEntity, "Invalid")
		return
	}
	if !dry {
		c.version++
		o.Metadata.ResourceVersion = fmt.Sprint(c.version)
		c.secrets[name] = o
		c.writes = append(c.writes, verb+" "+name)
	}
	answer(w, http.StatusCreated, o)
}

// put is what somebody else does.
func (c *cluster) put(name string, o object) {
	c.version++
	o.Metadata.Name, o.Metadata.ResourceVersion = name, fmt.Sprint(c.version)
	c.secrets[name] = &o
}

func (c *cluster) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	writes := c.writes
	c.writes = nil
	return writes
}

func (c *cluster) get(t *testing.T, name string) object {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.secrets[name]
	if o == nil {
		t.Fatalf("there is no secret %s", name)
	}
	return *o
}

func refuse(w http.ResponseWriter, code int, reason string) {
	answer(w, code, map[string]any{"kind": "Status", "reason": reason, "message": canary})
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}
