// Package kubetest is as much of a Kubernetes API server as the driver's tests take: objects in memory that are listed
// page by page, watched, applied with field managers and deleted with preconditions, failures on demand, and a stand-in
// for the Sandbox controller and the kubelet. It decides nothing that the driver is tested for; what only the real server
// can prove is tested against the real one.
package kubetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Object is an object as JSON has it.
type Object = map[string]any

// Server is one API server. Its fields are set before the first request.
type Server struct {
	// URL is where it listens.
	URL string
	// Minor is the version of Kubernetes 1 that it claims to be.
	Minor string
	// Fail may answer a request with a failure of the API instead: code, reason and message; code 0 for none.
	Fail func(r *http.Request) (code int, reason, message string)
	// Controller has sandboxes get pods that are ready at once; SetController changes it later.
	Controller bool

	mu       sync.Mutex
	versions []string
	objects  map[string]map[string]Object // by resource, then by namespace and name
	version  int
	forgot   int // watches from before are answered with 410
	log      []change
	changed  chan struct{}
	requests map[string]int
}

type change struct {
	version  int
	resource string
	kind     string
	object   []byte
}

// New starts a server that serves both versions of Sandbox objects and ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		Minor: "37", versions: []string{"v1beta1", "v1alpha1"}, objects: make(map[string]map[string]Object),
		changed: make(chan struct{}), requests: make(map[string]int), version: 100,
	}
	h := httptest.NewServer(s)
	s.URL = h.URL
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return s
}

// Kubeconfig writes a file that names the server.
func (s *Server) Kubeconfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: " + s.URL + "}}]\n" +
		"contexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\nusers: [{name: u, user: {}}]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Serve says which versions of Sandbox objects there are from now on; none means that the definition is missing.
// Watches of sandboxes end.
func (s *Server) Serve(versions ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = versions
	s.forgot = s.version
	s.wake()
}

// Forget ends every watch and answers those that want to go on with 410, as after a compaction.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.forgot = s.version
	s.wake()
}

// SetController switches the stand-in for the controller on or off.
func (s *Server) SetController(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Controller = on
}

// Requests returns how many requests there were of a verb and resource, for example "patch sandboxes".
func (s *Server) Requests(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[what]
}

// Put stores an object as it is and tells watchers.
func (s *Server) Put(resource string, object Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(resource, object)
}

// Get returns a copy of an object, nil if there is none.
func (s *Server) Get(resource, namespace, name string) Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.objects[resource][namespace+"/"+name])
}

// Edit changes an object and tells watchers.
func (s *Server) Edit(resource, namespace, name string, change func(Object)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[resource][namespace+"/"+name]; o != nil {
		o = clone(o)
		change(o)
		s.put(resource, o)
	}
}

// Remove removes an object at once.
func (s *Server) Remove(resource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(resource, namespace+"/"+name)
}

// Names lists the objects of a resource as namespace/name.
func (s *Server) Names(resource string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects[resource]))
}

func clone(o Object) Object {
	if o == nil {
		return nil
	}
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var out Object
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return out
}

// Meta returns an object's metadata.
func Meta(o Object) Object {
	m, ok := o["metadata"].(Object)
	if !ok {
		m = Object{}
		o["metadata"] = m
	}
	return m
}

// Text returns a field of text, empty if it is none.
func Text(o Object, field string) string {
	text, _ := o[field].(string)
	return text
}

func (s *Server) put(resource string, o Object) {
	meta := Meta(o)
	key := Text(meta, "namespace") + "/" + Text(meta, "name")
	s.version++
	meta["resourceVersion"] = strconv.Itoa(s.version)
	if meta["uid"] == nil {
		meta["uid"] = fmt.Sprintf("00000000-0000-4000-8000-%012d", s.version)
	}
	if meta["creationTimestamp"] == nil {
		meta["creationTimestamp"] = time.Now().UTC().Format(time.RFC3339)
	}
	kind := "MODIFIED"
	if s.objects[resource] == nil {
		s.objects[resource] = make(map[string]Object)
	}
	if s.objects[resource][key] == nil {
		kind = "ADDED"
	}
	s.objects[resource][key] = o
	s.record(resource, kind, o)
	if s.Controller && resource == "sandboxes" {
		s.reconcile(key)
	}
}

func (s *Server) remove(resource, key string) {
	o := s.objects[resource][key]
	if o == nil {
		return
	}
	delete(s.objects[resource], key)
	s.version++
	Meta(o)["resourceVersion"] = strconv.Itoa(s.version)
	s.record(resource, "DELETED", o)
	if s.Controller && resource == "pods" {
		s.reconcile(key)
	}
}

func (s *Server) record(resource, kind string, o Object) {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	s.log = append(s.log, change{version: s.version, resource: resource, kind: kind, object: raw})
	s.wake()
}

func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// selects tells whether an object has the labels of a selector of equalities; a bare name must be there.
func selects(selector string, o Object) bool {
	labels, _ := Meta(o)["labels"].(Object)
	for part := range strings.SplitSeq(selector, ",") {
		if part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		got, has := labels[name]
		if !has || ok && got != value {
			return false
		}
	}
	return true
}
