package gateway_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway/config"
)

// checks returns what /readyz says of each check.
func (s *system) checks(client *http.Client) map[string]string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.conn.Target()+"/readyz", http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var report struct {
		Checks map[string]struct {
			Status string `json:"status"`
		} `json:"checks"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&report); err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for name, c := range report.Checks {
		out[name] = c.Status
	}
	return out
}

// Issuers come and go while a gateway runs; what /readyz looks at goes with them.
func TestReadinessFollowsTheIssuers(t *testing.T) {
	t.Parallel()
	s := start(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	if _, err := s.client.Health(t.Context(), &openshellpb.HealthRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	await := func(want string) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for s.checks(client)["oidc"] != want {
			if time.Now().After(deadline) {
				t.Fatalf("never %q: %v", want, s.checks(client))
			}
		}
	}
	await("healthy")
	without := *s.cfg
	without.Issuers = nil
	if err := s.gateway.Apply(s.cfg, &without); err != nil {
		t.Fatal(err)
	}
	await("")
	away := without
	away.Issuers = []config.Issuer{s.cfg.Issuers[0]}
	away.Issuers[0].Issuer = "http://127.0.0.1:1/realms/away"
	if err := s.gateway.Apply(&without, &away); err != nil {
		t.Fatal(err)
	}
	await("unhealthy")
}
