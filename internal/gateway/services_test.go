package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// TestServicesOfSandboxes sees that what the settings say reaches the services, and that nobody gets in without showing
// who they are.
func TestServicesOfSandboxes(t *testing.T) {
	t.Parallel()
	s := start(t, "--server-san", "gw.test,*.apps.test", "--service-session-ttl-secs", "60")
	s.create("box")
	made, err := s.client.ExposeService(s.user(), &openshellpb.ExposeServiceRequest{Sandbox: "box", Service: "web", TargetPort: 8000}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if made.Url != "http://default--box--web.apps.test:17670/" {
		t.Errorf("url %s", made.Url)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, s.conn.Target())
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	token := "Bearer " + s.issuer.Mint(map[string]any{"realm_access": map[string]any{"roles": []string{"openshell-user"}}, "scope": "openshell:all"})
	ask := func(method, url, body string, header http.Header) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for url, want := range map[string]int{
		made.Url: 401, "http://default--none.apps.test/": 401, "http://default--box--web.openshell.localhost/auth/connect": 401, "http://gw.test/healthz": 200,
	} {
		if status, text := ask(http.MethodGet, url, "", http.Header{}); status != want {
			t.Errorf("%s: %d %s, want %d", url, status, text, want)
		}
	}
	if status, text := ask(http.MethodGet, "http://default--none.apps.test/", "", http.Header{"Authorization": {token}}); status != 404 {
		t.Errorf("absent: %d %s", status, text)
	}
	status, text := ask(http.MethodPost, "http://gw.test/auth/service-link", `{"sandbox":"box","service":"web"}`, http.Header{
		"Authorization": {token}, "Content-Type": {"application/json"},
	})
	var link struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal([]byte(text), &link); err != nil || status != 200 || !strings.HasPrefix(link.URL, made.Url+".sallyport/sign-in?code=") {
		t.Errorf("link: %d %s %v", status, text, err)
	}
}

// TestNoCallsAtTheHostsOfServices sees that a page of a sandbox's cannot call the gateway as whoever looks at it: its calls
// are of the same origin, and here nothing need be shown to be an administrator.
func TestNoCallsAtTheHostsOfServices(t *testing.T) {
	t.Parallel()
	s := start(t, "--allow-unauthenticated-users")
	if _, err := s.client.Health(t.Context(), &openshellpb.HealthRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, s.conn.Target())
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for host, want := range map[string]int{"localhost": http.StatusOK, "default--box.openshell.localhost": http.StatusForbidden} {
		for _, method := range []string{"openshell.v1.OpenShell/ListSandboxes", "sallyport.v1.Gateway/ExplainAccess"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+host+"/"+method, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Connect-Protocol-Version", "1")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != want || (want == http.StatusForbidden) != strings.Contains(string(text), "SERVICE_HOST") &&
				!strings.Contains(string(text), "host of a service") {
				t.Errorf("%s at %s: %d %s %v", method, host, resp.StatusCode, text, err)
			}
		}
	}
	conn, err := grpc.NewClient(s.conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("default--box.openshell.localhost"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := openshellpb.NewOpenShellClient(conn).WatchSandbox(t.Context(), &openshellpb.WatchSandboxRequest{Id: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stream: %v", err)
	}
}
