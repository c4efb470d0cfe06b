package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// target is what a path means.
type target struct {
	version, resource, namespace, name string
}

// parse reads a path of the API.
func parse(path string) (target, bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var t target
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		t.version, parts = parts[2], parts[3:]
	default:
		return t, false
	}
	if len(parts) >= 3 && parts[0] == "namespaces" {
		t.namespace, parts = parts[1], parts[2:]
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	return t, len(parts) <= 2
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Fail != nil {
		if code, reason, message := s.Fail(r); code != 0 {
			fail(w, code, reason, message, nil)
			return
		}
	}
	switch r.URL.Path {
	case "/version":
		answer(w, http.StatusOK, Object{"major": "1", "minor": s.Minor})
		return
	case "/apis/agents.x-k8s.io":
		s.group(w)
		return
	}
	t, ok := parse(r.URL.Path)
	if !ok || t.resource == "sandboxes" && !s.serves(t.version) {
		fail(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource", Object{})
		return
	}
	verb := strings.ToLower(r.Method)
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && t.name == "" && query.Get("watch") == "true":
		verb = "watch"
	case r.Method == http.MethodGet && t.name == "":
		verb = "list"
	}
	s.mu.Lock()
	s.requests[verb+" "+t.resource]++
	s.mu.Unlock()
	switch verb {
	case "watch":
		s.watch(w, r, t)
	case "list":
		s.list(w, r, t)
	case "get":
		s.get(w, t)
	case "post":
		s.create(w, r, t)
	case "patch":
		s.apply(w, r, t)
	case "delete":
		s.delete(w, r, t)
	default:
		fail(w, http.StatusMethodNotAllowed, "MethodNotAllowed", r.Method, nil)
	}
}

func (s *Server) serves(version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.versions, version)
}

func (s *Server) group(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.versions) == 0 {
		fail(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource", Object{})
		return
	}
	var versions []Object
	for _, v := range s.versions {
		versions = append(versions, Object{"groupVersion": "agents.x-k8s.io/" + v, "version": v})
	}
	answer(w, http.StatusOK, Object{"kind": "APIGroup", "versions": versions})
}

func answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(o); err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
}

// Status is the object with which the API tells of a failure.
func Status(code int, reason, message string, details Object) Object {
	o := Object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}
	if details != nil {
		o["details"] = details
	}
	return o
}

func fail(w http.ResponseWriter, code int, reason, message string, details Object) {
	answer(w, code, Status(code, reason, message, details))
}

func missing(w http.ResponseWriter, t target) {
	fail(w, http.StatusNotFound, "NotFound", fmt.Sprintf("%s %q not found", t.resource, t.name), Object{"kind": t.resource, "name": t.name})
}

func (t target) key() string { return t.namespace + "/" + t.name }

func (s *Server) get(w http.ResponseWriter, t target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[t.resource][t.key()]; o != nil {
		answer(w, http.StatusOK, o)
		return
	}
	missing(w, t)
}

// list answers page by page; the token of the next page is the last name.
func (s *Server) list(w http.ResponseWriter, r *http.Request, t target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = 1 << 30
	}
	after := r.URL.Query().Get("continue")
	items := []Object{}
	meta := Object{"resourceVersion": strconv.Itoa(s.version)}
	last := ""
	for _, key := range slices.Sorted(maps.Keys(s.objects[t.resource])) {
		o := s.objects[t.resource][key]
		if key <= after || t.namespace != "" && !strings.HasPrefix(key, t.namespace+"/") || !selects(r.URL.Query().Get("labelSelector"), o) {
			continue
		}
		if len(items) == limit {
			meta["continue"] = last
			break
		}
		items, last = append(items, o), key
	}
	// The order of fields is not the contract's: the metadata may come last.
	answer(w, http.StatusOK, Object{"kind": "List", "apiVersion": "v1", "items": items, "metadata": meta})
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, t target) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		fail(w, http.StatusBadRequest, "BadRequest", "resourceVersion", nil)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	flusher, _ := w.(http.Flusher)
	out := json.NewEncoder(w)
	s.mu.Lock()
	if from < s.forgot {
		s.mu.Unlock()
		event(out, "ERROR", Status(http.StatusGone, "Expired", "too old resource version", nil))
		return
	}
	began := s.forgot
	s.mu.Unlock()
	flusher.Flush()
	at := 0
	for {
		s.mu.Lock()
		news := s.log[at:]
		at = len(s.log)
		changed, ended := s.changed, s.forgot != began
		s.mu.Unlock()
		if ended {
			return
		}
		for _, c := range news {
			var o Object
			if c.version <= from || c.resource != t.resource || json.Unmarshal(c.object, &o) != nil ||
				t.namespace != "" && Text(Meta(o), "namespace") != t.namespace || !selects(r.URL.Query().Get("labelSelector"), o) {
				continue
			}
			event(out, c.kind, o)
		}
		if len(news) > 0 {
			event(out, "BOOKMARK", Object{"metadata": Object{"resourceVersion": strconv.Itoa(news[len(news)-1].version)}})
		}
		flusher.Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func event(out *json.Encoder, kind string, o Object) {
	if err := out.Encode(Object{"type": kind, "object": o}); err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
}

func body(w http.ResponseWriter, r *http.Request) Object {
	raw, err := io.ReadAll(r.Body)
	var o Object
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &o)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "BadRequest", err.Error(), nil)
		return nil
	}
	if o == nil {
		o = Object{}
	}
	return o
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, t target) {
	o := body(w, r)
	if o == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.name = Text(Meta(o), "name")
	if s.objects[t.resource][t.key()] != nil {
		fail(w, http.StatusConflict, "AlreadyExists", t.name+" already exists", Object{"name": t.name, "kind": t.resource})
		return
	}
	s.put(t.resource, o)
	answer(w, http.StatusCreated, o)
}

// apply merges what is applied into what is there. The manager that made an object may go on; another one conflicts
// unless it forces.
func (s *Server) apply(w http.ResponseWriter, r *http.Request, t target) {
	o := body(w, r)
	if o == nil {
		return
	}
	manager := r.URL.Query().Get("fieldManager")
	if r.Header.Get("Content-Type") != "application/apply-patch+yaml" || manager == "" || len(manager) > 128 {
		fail(w, http.StatusUnsupportedMediaType, "UnsupportedMediaType", "only apply", nil)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	there := s.objects[t.resource][t.key()]
	if there == nil {
		if Text(Meta(o), "uid") != "" {
			fail(w, http.StatusConflict, "Conflict", "uid mismatch", nil)
			return
		}
		Meta(o)["managedFields"] = []any{Object{"manager": manager, "operation": "Apply"}}
		Meta(o)["generation"] = float64(1)
		s.put(t.resource, o)
		answer(w, http.StatusCreated, s.objects[t.resource][t.key()])
		return
	}
	if uid := Text(Meta(o), "uid"); uid != "" && uid != Text(Meta(there), "uid") {
		fail(w, http.StatusConflict, "Conflict", "uid mismatch", nil)
		return
	}
	fields, _ := Meta(there)["managedFields"].([]any)
	owner := ""
	if len(fields) > 0 {
		first, _ := fields[0].(Object)
		owner = Text(first, "manager")
	}
	if owner != manager && r.URL.Query().Get("force") != "true" {
		fail(w, http.StatusConflict, "Conflict", "Apply failed with 1 conflict: conflict with "+owner, nil)
		return
	}
	next := clone(there)
	merge(next, o)
	generation, _ := Meta(next)["generation"].(float64)
	Meta(next)["generation"] = generation + 1
	s.put(t.resource, next)
	answer(w, http.StatusOK, s.objects[t.resource][t.key()])
}

func merge(into, from Object) {
	for k, v := range from {
		a, ok := into[k].(Object)
		b, ok2 := v.(Object)
		if ok && ok2 {
			merge(a, b)
			continue
		}
		into[k] = v
	}
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request, t target) {
	opts := body(w, r)
	if opts == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[t.resource][t.key()]
	if o == nil {
		missing(w, t)
		return
	}
	pre, _ := opts["preconditions"].(Object)
	for _, field := range []string{"uid", "resourceVersion"} {
		if want := Text(pre, field); want != "" && want != Text(Meta(o), field) {
			fail(w, http.StatusConflict, "Conflict", "precondition failed: "+field, Object{"name": t.name, "kind": t.resource})
			return
		}
	}
	if Text(opts, "propagationPolicy") == "Foreground" && s.Controller {
		next := clone(o)
		Meta(next)["deletionTimestamp"] = time.Now().UTC().Format(time.RFC3339)
		s.put(t.resource, next)
	} else {
		s.remove(t.resource, t.key())
	}
	answer(w, http.StatusOK, Object{"kind": "Status", "status": "Success"})
}
