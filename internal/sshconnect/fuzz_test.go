package sshconnect_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/sshsession"
)

// stern lets nobody in, and must be asked with plain text only.
type stern struct{ t *testing.T }

func (s stern) Enter(_ context.Context, _ *principal.Principal, id, token string) (*sshsession.Connection, error) {
	for _, text := range []string{id, token} {
		for i := range len(text) {
			if text[i] < ' ' || text[i] > '~' {
				s.t.Errorf("%q was passed on", text)
			}
		}
		if text == "" {
			s.t.Error("an empty header was passed on")
		}
	}
	return nil, fault.New(fault.Unauthenticated, sshsession.ReasonTokenUnknown, "no")
}

// FuzzRequest sends headers of all sorts.
func FuzzRequest(f *testing.F) {
	f.Add("CONNECT", "id", "token", "request", true)
	f.Add("CONNECT", "", "é", "a b", false)
	f.Add("GET", "id", "token", "", true)
	f.Fuzz(func(t *testing.T, method, id, token, requestID string, both bool) {
		handler, err := sshconnect.New(sshconnect.Config{Sessions: stern{t}, Relays: relay.NewRegistry(nil)})
		if err != nil {
			t.Fatal(err)
		}
		defer handler.Close()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodConnect, sshconnect.Path, http.NoBody)
		req.Method = method
		req.Header[sshconnect.HeaderSandboxID] = []string{id}
		if both {
			req.Header[sshconnect.HeaderToken] = []string{token}
		}
		req.Header["X-Request-Id"] = []string{requestID}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		switch w.Code {
		case 400, 401, 405:
		default:
			t.Errorf("status %d", w.Code)
		}
		if w.Header().Get("X-Request-Id") == "" {
			t.Error("no request id")
		}
	})
}
