package gateway_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// A page whose name was pointed at the gateway's address is of one origin with it, so that no browser keeps its calls
// back. Where a caller need not show anything, such a page would be an administrator.
func TestPagesOfOtherSitesMayNotCall(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name string
		args []string
		// open is the answer to whoever is let near, foreign that to a page of another site.
		open, foreign int
	}{
		{"nothing to show", []string{"--allow-unauthenticated-users", "--allowed-hosts", "gw.example"}, http.StatusOK, http.StatusForbidden},
		// A page has no token but its own site's.
		{"a token to show", nil, http.StatusUnauthorized, http.StatusUnauthorized},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, mode.args...)
			if _, err := s.client.Health(t.Context(), &openshellpb.HealthRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
			transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, s.conn.Target())
			}}
			defer transport.CloseIdleConnections()
			for _, tc := range []struct {
				name, host, header, value string
				want                      int
			}{
				{"no browser", "evil.example", "", "", mode.open},
				{"its own page", "localhost:17670", "Origin", "http://localhost:17670", mode.open},
				{"its own page under another name", "gw.example", "Origin", "http://gw.example", mode.open},
				{"a page whose name was pointed here", "evil.example", "Origin", "http://evil.example", mode.foreign},
				{"the same, not saying where from", "evil.example", "Sec-Fetch-Site", "same-origin", mode.foreign},
				{"a page elsewhere", "localhost:17670", "Origin", "https://evil.example", mode.foreign},
				{"a page in a file", "localhost:17670", "Origin", "null", mode.foreign},
			} {
				for _, kind := range []string{"application/json", "application/grpc-web+proto"} {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+tc.host+"/openshell.v1.OpenShell/ListSandboxes",
						strings.NewReader("{}"))
					if err != nil {
						t.Fatal(err)
					}
					want := tc.want
					if kind == "application/json" {
						req.Header.Set("Connect-Protocol-Version", "1")
					} else if want != http.StatusForbidden {
						// The protocol tells the outcome in its trailers.
						want = http.StatusOK
					}
					req.Header.Set("Content-Type", kind)
					if tc.header != "" {
						req.Header.Set(tc.header, tc.value)
					}
					resp, err := (&http.Client{Transport: transport}).Do(req)
					if err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != want {
						t.Errorf("%s, %s: %d %.200q %v, want %d", tc.name, kind, resp.StatusCode, text, err, want)
					}
				}
			}
		})
	}
}
