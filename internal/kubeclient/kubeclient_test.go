package kubeclient_test

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/kubeclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "token-of-the-account"
	canary = "canary-text-of-the-api"
)

// serve is an API server for one test.
func serve(t *testing.T, h http.HandlerFunc) *kubeclient.Client {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, data := range map[string][]byte{"ca.crt": ca, "token": []byte(secret + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := kubeclient.New(kubeclient.Config{URL: server.URL + "/base", CAPath: filepath.Join(dir, "ca.crt"), TokenPath: filepath.Join(dir, "token")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type object struct {
	Name string `json:"name"`
}

func TestCall(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		want := map[string]string{http.MethodGet: "", http.MethodPost: "application/json", http.MethodPatch: "application/merge-patch+json"}[r.Method]
		sent := map[bool]string{true: "", false: `{"name":"in"}`}[r.Method == http.MethodGet]
		if r.URL.Path != "/base/api/v1/things" || r.URL.RawQuery != "dryRun=All" || r.Header.Get("Authorization") != "Bearer "+secret ||
			r.Header.Get("Content-Type") != want || string(body) != sent {
			t.Errorf("%s %s %v %s", r.Method, r.URL, r.Header, body)
		}
		_, _ = io.WriteString(w, `{"name":"out"}`)
	})
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch} {
		var in any = object{Name: "in"}
		if method == http.MethodGet {
			in = nil
		}
		var out object
		if err := c.Call(t.Context(), method, "api/v1/things?dryRun=All", in, &out); err != nil || out.Name != "out" {
			t.Errorf("%s: %+v, %v", method, out, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for code, answer := range map[int]string{
		http.StatusNotFound: `{"reason":"NotFound","message":"` + canary + `"}`, http.StatusConflict: `{"reason":"Conflict"}`, http.StatusForbidden: canary,
		http.StatusMovedPermanently: "", http.StatusInternalServerError: `{"reason":"` + strings.Repeat("r", 65) + `"}`,
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere.test")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, answer)
		})
		var out object
		err := c.Call(t.Context(), http.MethodPost, "x", object{}, &out)
		if kubeclient.Code(err) != code || errors.Is(err, kubeclient.ErrNotFound) != (code == http.StatusNotFound) {
			t.Errorf("%d: %v", code, err)
		}
		if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "rrrr")) {
			t.Errorf("the error tells too much: %v", err)
		}
	}
	for want, answer := range map[string]string{"not the object": canary, "more than": strings.Repeat(" ", 2<<20) + "{}"} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) })
		var out object
		if err := c.Call(t.Context(), http.MethodGet, "x", nil, &out); err == nil || !strings.Contains(err.Error(), want) || kubeclient.Code(err) != 0 {
			t.Errorf("%q: %v", want, err)
		}
	}
	c := serve(t, func(http.ResponseWriter, *http.Request) {})
	if err := c.Call(t.Context(), http.MethodPost, "x", make(chan int), nil); err == nil {
		t.Error("what cannot be encoded was sent")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	none := func(string) (string, bool) { return "", false }
	for want, c := range map[string]kubeclient.Config{
		"as in a pod":    {Env: none},
		"by https":       {URL: "http://k.test"},
		"must be https:": {URL: "https://u@k.test"},
		"must be https":  {URL: "https://k.test?x"},
	} {
		if _, err := kubeclient.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c.URL, err)
		}
	}
	pod := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	c, err := kubeclient.New(kubeclient.Config{Env: func(k string) (string, bool) { v, ok := pod[k]; return v, ok }, CAPath: "/nonexistent", TokenPath: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), http.MethodGet, "x", nil, nil); err == nil || !strings.Contains(err.Error(), "own token") {
		t.Errorf("%v", err)
	}
}
