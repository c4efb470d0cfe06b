package docs_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/oidctest"
)

// placeholders are the words in capitals, with what the stand-ins call them.
var placeholders = strings.NewReplacer(
	"TENANT-ID", oidctest.EntraTenant, "GATEWAY-APP-ID", oidctest.EntraAudience, "CLIENT-ID", "0oa1client",
	"OWNER-NUMBER", "65", "OKTA-DOMAIN", "example.okta.test",
)

// provider is a section of docs/auth.md that has a table of claims.
type provider struct {
	title string
	shape oidctest.Shape
	// change makes the stand-in's token one of the section's client.
	change map[string]any
	// issuer is the name of the entry in the block; empty is the one of the single-issuer form.
	issuer string
}

func providers() []provider {
	return []provider{
		{title: "Keycloak", shape: oidctest.Keycloak(), change: map[string]any{"aud": []string{"openshell-cli", "account"}}},
		{title: "Entra ID", shape: oidctest.Entra()},
		{title: "Okta", shape: oidctest.Okta()},
		{title: "Dex", shape: oidctest.Dex()},
		{title: "GitHub Actions", shape: oidctest.GitHubActions(), issuer: "github"},
		{title: "Kubernetes service accounts", shape: oidctest.Kubernetes(), issuer: "cluster"},
		{title: "Tenants", shape: oidctest.Keycloak()},
	}
}

// read reads a block as the gateway does, with no more than it needs to be whole.
func read(t *testing.T, dir, text string, args ...string) *config.Config {
	t.Helper()
	args = append([]string{
		"--drivers", "external", "--compute-driver-socket", filepath.Join(dir, "c.sock"),
		"--db-url", "sqlite:" + filepath.Join(dir, "state", "x.db"), "--shutdown-grace-secs", "1",
	}, args...)
	if !strings.Contains(text, "cert_path") {
		args = append(args, "--tls-cert", "tls.crt", "--tls-key", "tls.key")
	}
	env := func(name string) (string, bool) {
		known := map[string]string{"HOME": dir, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
		value, ok := known[name]
		return value, ok
	}
	cfg, err := config.ParseText(args, env, []byte(placeholders.Replace(text)))
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return cfg
}

// serve runs a gateway made of a block. Its issuers are stand-ins for those that the block names; all else is what the
// block says but for the certificate and the address.
func serve(t *testing.T, text string) (address string, idps map[string]*oidctest.Issuer) {
	t.Helper()
	dir := shortDir(t)
	cfg := read(t, dir, text)
	cfg.TLS = config.TLS{}
	idps = map[string]*oidctest.Issuer{}
	for i := range cfg.Issuers {
		idp := oidctest.New(t)
		idp.SetKeys()
		idp.AddKey(jose.RS256)
		idps[cfg.Issuers[i].Name] = idp
		cfg.Issuers[i].Issuer, cfg.Issuers[i].CAPath = idp.URL, ""
	}
	return run(t, cfg), idps
}

// run runs a gateway until the test ends.
func run(t *testing.T, cfg *config.Config) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(t.Context(), cfg, gateway.Options{Version: "test", Logger: slog.New(slog.DiscardHandler), Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return l.Addr().String()
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "docs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func dial(t *testing.T, address string) openshellpb.OpenShellClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return openshellpb.NewOpenShellClient(conn)
}

func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// reasonOf is the reason in a status' details.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

// The first block of each section is served, and each row of its table of claims is a token of the provider's shape with
// these claims.
func TestProvidersAsDocumented(t *testing.T) {
	t.Parallel()
	sections := page(t, "auth.md")
	for _, p := range providers() {
		t.Run(p.title, func(t *testing.T) {
			t.Parallel()
			s := named(t, sections, p.title)
			blocks, rows := s.of("toml"), s.table("Claims of the token", "Roles here")
			if len(blocks) == 0 || len(rows) < 4 {
				t.Fatalf("%d blocks and %d rows", len(blocks), len(rows))
			}
			if p.issuer == "" {
				p.issuer = config.DefaultIssuer
			}
			address, idps := serve(t, blocks[0])
			client, idp := dial(t, address), idps[p.issuer]
			admitted, kept := 0, 0
			for _, row := range rows {
				if checkRow(t, client, idp, p, row) {
					admitted++
				} else {
					kept++
				}
			}
			if admitted == 0 || kept == 0 {
				t.Errorf("%d rows are let in and %d kept out; there must be both", admitted, kept)
			}
		})
	}
}

// checkRow tells whether the row is about somebody who may use the gateway.
func checkRow(t *testing.T, client openshellpb.OpenShellClient, idp *oidctest.Issuer, p provider, row []string) (admitted bool) {
	t.Helper()
	change := map[string]any{}
	for name, value := range p.change {
		change[name] = value
	}
	if err := json.Unmarshal([]byte(words(row[0])[0]), &change); err != nil {
		t.Fatalf("%s: %v", row[0], err)
	}
	ctx := bearer(t.Context(), idp.MintAs(p.shape, change))
	me, err := client.GetCurrentUser(ctx, &openshellpb.GetCurrentUserRequest{}, grpc.WaitForReady(true))
	_, listErr := client.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{})
	_, adminErr := client.CreateProvider(ctx, &openshellpb.CreateProviderRequest{})
	want := words(row[1])
	if strings.HasPrefix(row[1], "refused") {
		for _, err := range []error{err, listErr, adminErr} {
			if status.Code(err) != codes.Unauthenticated || len(want) != 1 || reasonOf(err) != want[0] {
				t.Errorf("%s: %v, want %s", row[0], err, row[1])
			}
		}
		return false
	}
	if err != nil {
		t.Errorf("%s: %v, want %s", row[0], err, row[1])
		return false
	}
	if (row[1] == "none") != (len(want) == 0) {
		t.Errorf("%s: %q is neither roles nor none", row[0], row[1])
	}
	if diff := cmp.Diff(want, me.Roles); diff != "" {
		t.Errorf("%s: roles (-documented +got):\n%s", row[0], diff)
	}
	admin := slices.Contains(want, "openshell-admin")
	if admitted = admin || slices.Contains(want, "openshell-user"); admitted != (listErr == nil) {
		t.Errorf("%s: ListSandboxes: %v", row[0], listErr)
	}
	if !admin && reasonOf(adminErr) != "ROLE_REQUIRED" || admin && reasonOf(adminErr) == "ROLE_REQUIRED" {
		t.Errorf("%s: CreateProvider: %v", row[0], adminErr)
	}
	return admitted
}

// A word in capitals that nobody replaced lets nobody in. In an issuer's address it leads to no provider, so there is
// nothing to test about that.
func TestForgottenPlaceholdersAdmitNobody(t *testing.T) {
	t.Parallel()
	sections := page(t, "auth.md")
	for word, p := range map[string]provider{
		"TENANT-ID":      {title: "Entra ID", shape: oidctest.Entra(), change: map[string]any{"roles": []string{"OpenShell.User"}}},
		"GATEWAY-APP-ID": {title: "Entra ID", shape: oidctest.Entra(), change: map[string]any{"roles": []string{"OpenShell.User"}}},
		"CLIENT-ID":      {title: "Okta", shape: oidctest.Okta()},
		"OWNER-NUMBER":   {title: "GitHub Actions", shape: oidctest.GitHubActions()},
	} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			whole := named(t, sections, p.title).of("toml")[0]
			forgotten := strings.ReplaceAll(whole, word, "STILL-TO-DO")
			if forgotten == whole {
				t.Fatal("the word is not in the block")
			}
			for _, text := range []string{whole, forgotten} {
				address, idps := serve(t, text)
				for _, idp := range idps {
					_, err := dial(t, address).ListSandboxes(bearer(t.Context(), idp.MintAs(p.shape, p.change)), &openshellpb.ListSandboxesRequest{}, grpc.WaitForReady(true))
					if (err == nil) != (text == whole) {
						t.Errorf("forgotten: %t, %v", text != whole, err)
					}
				}
			}
		})
	}
}

// A scope narrows a role, as the section on Okta says.
func TestScopesNarrowRolesAsDocumented(t *testing.T) {
	t.Parallel()
	s := named(t, page(t, "auth.md"), "Okta")
	address, idps := serve(t, s.of("toml")[0])
	client := dial(t, address)
	ctx := bearer(t.Context(), idps[config.DefaultIssuer].MintAs(oidctest.Okta(), nil))
	if _, err := client.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
	if _, err := client.CreateProvider(ctx, &openshellpb.CreateProviderRequest{}); reasonOf(err) != "SCOPE_REQUIRED" {
		t.Errorf("CreateProvider: %v", err)
	}
}

// Each issuer of the block judges its own tokens, and a job's token is not one of people.
func TestSeveralIssuersAsDocumented(t *testing.T) {
	t.Parallel()
	s := named(t, page(t, "auth.md"), "Several issuers")
	address, idps := serve(t, s.of("toml")[0])
	client := dial(t, address)
	call := func(token string) error {
		_, err := client.ListSandboxes(bearer(t.Context(), token), &openshellpb.ListSandboxesRequest{}, grpc.WaitForReady(true))
		return err
	}
	person := map[string]any{"aud": []string{"openshell-cli"}}
	if err := call(idps["people"].MintAs(oidctest.Keycloak(), person)); err != nil {
		t.Errorf("person: %v", err)
	}
	if err := call(idps["github"].MintAs(oidctest.GitHubActions(), nil)); err != nil {
		t.Errorf("job: %v", err)
	}
	if err := call(idps["github"].MintAs(oidctest.GitHubActions(), map[string]any{"repository": "example-org/other"})); reasonOf(err) != "TOKEN_CLAIM_REQUIRED" {
		t.Errorf("job of another repository: %v", err)
	}
	// Signed by one issuer, in the name of the other.
	if err := call(idps["github"].MintAs(oidctest.Keycloak(), map[string]any{"aud": []string{"openshell-cli"}, "iss": idps["people"].URL})); status.Code(err) != codes.Unauthenticated {
		t.Errorf("token of another signer: %v", err)
	}
}

// Everything in the page can be copied: each block of settings is whole or a part that goes with others.
func TestBlocksAreValid(t *testing.T) {
	t.Parallel()
	n := 0
	for _, s := range page(t, "auth.md") {
		for _, text := range s.of("toml") {
			n++
			cfg := read(t, t.TempDir(), text)
			for _, w := range cfg.Warnings {
				if strings.Contains(w, "has no effect") {
					t.Errorf("%s: %s", s.title, w)
				}
			}
		}
	}
	if n < 12 {
		t.Errorf("only %d blocks were found", n)
	}
}

// What the parts without a provider say is what is in force.
func TestPartsAsDocumented(t *testing.T) {
	t.Parallel()
	sections := page(t, "auth.md")
	part := func(title string) *config.Config {
		return read(t, t.TempDir(), named(t, sections, title).of("toml")[0])
	}
	if k := part("Pods of sandboxes").Kubernetes; !k.Enabled || k.ServiceAccount != "openshell-sandbox" || !slices.Equal(k.Namespaces, []string{"openshell"}) || k.APIURL == "" {
		t.Errorf("pods: %+v", k)
	}
	if c := part("Client certificates"); !c.MTLS.Enabled || !slices.Equal(c.MTLS.DefaultRoles, []string{"openshell-user"}) || !c.TLS.RequireClient {
		t.Errorf("certificates: %+v, %+v", c.MTLS, c.TLS)
	}
	if c := part("Development"); !c.Auth.AllowUnauthenticated || !c.Listen.Address.Addr().IsLoopback() {
		t.Errorf("development: %+v", c.Auth)
	}
	if e := part("Behind an edge proxy").Edge; !e.Connect || !e.Tunnel || len(e.AllowedHosts) != 1 || len(e.AllowedOrigins) != 1 {
		t.Errorf("edge: %+v", e)
	}
	if a := part("Tenants").Authorization; a.Tenant != "team1" || a.TenantClaim != "groups" {
		t.Errorf("tenant: %+v", a)
	}
	if a := part("Modes, roles and scopes").Authorization; a.Mode != config.ModeWorkspaces || !a.PrivateSandboxes {
		t.Errorf("mode: %+v", a)
	}
}

// Whoever shows nothing to the gateway of the development block is an administrator, and who shows a bad token nobody.
func TestDevelopmentAsDocumented(t *testing.T) {
	t.Parallel()
	address, _ := serve(t, named(t, page(t, "auth.md"), "Development").of("toml")[0])
	client := dial(t, address)
	me, err := client.GetCurrentUser(t.Context(), &openshellpb.GetCurrentUserRequest{}, grpc.WaitForReady(true))
	if err != nil || !slices.Contains(me.Roles, "openshell-admin") {
		t.Errorf("nothing shown: %v, %v", me, err)
	}
	if me, err := client.GetCurrentUser(bearer(t.Context(), "a.b.c"), &openshellpb.GetCurrentUserRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("bad token: %v, %v", me, err)
	}
}

// What a browser may reach is what the section on edge proxies says, and nothing of it is there without its block.
func TestEdgeAsDocumented(t *testing.T) {
	t.Parallel()
	sections := page(t, "auth.md")
	open, _ := serve(t, named(t, sections, "Behind an edge proxy").of("toml")[0])
	shut, _ := serve(t, named(t, sections, "Development").of("toml")[0])
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	const connect, tunnel = "/auth/connect?callback_port=4000&code=ABC-2345", "/_ws_tunnel"
	for _, tc := range []struct {
		address, path, host, origin string
		want                        int
	}{
		{open, connect, "gw.example.org", "", http.StatusOK},
		{open, connect, open, "", http.StatusOK},
		{open, connect, "evil.example", "", http.StatusForbidden},
		{open, tunnel, "gw.example.org", "https://gw.example.org", http.StatusSwitchingProtocols},
		{open, tunnel, "gw.example.org", "https://console.example.org", http.StatusSwitchingProtocols},
		{open, tunnel, "gw.example.org", "", http.StatusSwitchingProtocols},
		{open, tunnel, "gw.example.org", "https://evil.example", http.StatusForbidden},
		{open, tunnel, "evil.example", "https://evil.example", http.StatusForbidden},
		{shut, connect, shut, "", http.StatusNotFound},
		{shut, tunnel, shut, "", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tc.address+tc.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tc.host
		if tc.path == tunnel {
			for name, value := range map[string]string{
				"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
			} {
				req.Header.Set(name, value)
			}
		}
		if tc.origin != "" {
			req.Header.Set("Origin", tc.origin)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s as %s from page %q: %d, want %d", tc.path, tc.host, tc.origin, resp.StatusCode, tc.want)
		}
	}
}
