package chart_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestNotes looks at what Helm says after an installation: the commands to type next, and what is missing.
func TestNotes(t *testing.T) {
	t.Parallel()
	const nobody = "NOBODY CAN SIGN IN YET"
	for name, c := range map[string]struct {
		values    string
		want, not []string
	}{
		"defaults": {
			`{}`,
			[]string{
				"kubectl rollout status statefulset/gw-sallyport -n team1", "kubectl port-forward -n team1 service/gw-sallyport 8080",
				"sallyport gateway add https://localhost:8080 --name gw-sallyport --ca gw-sallyport-ca.crt", nobody,
				"Sandboxes reach the gateway and DNS alone",
			},
			nil,
		},
		"a host": {
			`{tlsRoute: {enabled: true, hostnames: [gw.example.com], parentRefs: [{name: g}]}, server: {oidc: {issuer: "https://id"}}}`,
			[]string{"sallyport gateway add https://gw.example.com --name gw-sallyport"},
			[]string{nobody, "port-forward"},
		},
		"no roles":        {`{server: {oidc: {issuer: "https://id", adminRole: "", userRole: ""}}}`, []string{"Whoever signs in may do everything"}, nil},
		"no cluster role": {`{rbac: {clusterScoped: {create: false}}}`, []string{"SANDBOXES GET NO IDENTITY", "kubectl create clusterrolebinding gw-sallyport-team1"}, nil},
		"plaintext":       {`{server: {disableTls: true, grpcEndpoint: "https://gw"}}`, []string{"Sandboxes reach the gateway at https://gw", "sallyport gateway add http://localhost:8080", "The gateway speaks plaintext"}, nil},
		"other namespace": {
			`{server: {sandboxNamespace: agents}}`,
			[]string{"kubectl create secret generic gw-sallyport-server-tls -n agents --from-file=ca.crt=/dev/stdin"},
			nil,
		},
		"no volume": {`{persistence: {enabled: false}}`, []string{"lost with the pod"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := helmWith(t, c.values, "install", "gw", chartDir, "--namespace", "team1", "--dry-run=client", "--values", "-",
				"--kubeconfig", filepath.Join(t.TempDir(), "none"))
			if err != nil {
				t.Fatal(err)
			}
			_, notes, found := strings.Cut(out, "\nNOTES:\n")
			if !found {
				t.Fatalf("no notes in\n%s", out)
			}
			for _, want := range c.want {
				if !strings.Contains(notes, want) {
					t.Errorf("%q is not in the notes\n%s", want, notes)
				}
			}
			for _, not := range c.not {
				if strings.Contains(notes, not) {
					t.Errorf("%q is in the notes\n%s", not, notes)
				}
			}
		})
	}
}
