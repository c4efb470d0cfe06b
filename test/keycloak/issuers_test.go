//go:build linux

package keycloak_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTwoIssuers has one gateway trust two realms: people come with the flags, machines from another realm with a table of the
// file, which maps their role and asks for a claim.
func TestTwoIssuers(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	machines := r.small(t, "machines")
	file := filepath.Join(t.TempDir(), "gateway.toml")
	table := fmt.Sprintf(`
[[openshell.gateway.oidc.issuers]]
name = "machines"
issuer = %q
audiences = [%q]
algorithms = ["RS256"]
role_map = { "openshell-user" = ["pipeline"] }
strict_roles = true
required = [ { claim = "azp", values = [%q] } ]

[openshell.gateway.oidc]
user_role = "pipeline"
`, machines.Issuer(), audience, machineClient)
	if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, r, "--config", file)
	// The people's realm knows no role of that name; its administrators need none.
	admin := r.password(t, "openshell-cli", "admin@test", everything).Access
	d.wantIn("an administrator of the first realm", admin)
	wantDenied(t, "a user whose realm does not map roles", d.list(r.password(t, "openshell-cli", "user@test", everything).Access), "pipeline")
	d.wantIn("a machine of the second realm", machines.machine(t, machineClient))
	d.wantOut("the server's administrator, of a third", r.sibling("master").password(t, "admin-cli", "admin", "").Access, "TOKEN_ISSUER")

	for _, c := range []struct{ name, old, new, reason string }{
		{"a client that is not asked for", fmt.Sprintf("values = [%q]", machineClient), `values = ["nobody"]`, "TOKEN_CLAIM_REQUIRED"},
		{"another audience", fmt.Sprintf("audiences = [%q]", audience), `audiences = ["somewhere-else"]`, "TOKEN_AUDIENCE"},
		{"another algorithm", `algorithms = ["RS256"]`, `algorithms = ["ES256"]`, "TOKEN_ALGORITHM"},
	} {
		changed := strings.Replace(table, c.old, c.new, 1)
		if changed == table {
			t.Fatalf("no %s in the table", c.old)
		}
		if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		open(t, r, "--config", file).wantOut(c.name, machines.machine(t, machineClient), c.reason)
	}
}
