package dev

import (
	"fmt"
	"strings"

	"sallyport.dev/sallyport/internal/devidp"
)

// endpoints is what `sallyport dev -o json` prints once everything runs.
type endpoints struct {
	Gateway  string `json:"gateway"`
	CAFile   string `json:"ca_file"`
	Issuer   string `json:"issuer"`
	ClientID string `json:"client_id"`
	Ready    string `json:"ready"`
	Metrics  string `json:"metrics"`
	StateDir string `json:"state_dir"`
	Profile  string `json:"profile"`
}

func (s *system) endpoints() endpoints {
	return endpoints{
		Gateway: s.gatewayURL(), CAFile: s.certs.ca, Issuer: s.idp.Issuer(), ClientID: devidp.CLIClient,
		Ready: s.readyURL(), Metrics: s.metricsURL(), StateDir: s.dir, Profile: profileName,
	}
}

// usage tells a person how to reach the running system in three ways; active is the selected gateway.
func usage(s *system, active string) string {
	e := s.endpoints()
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("Sallyport runs on this machine. Ctrl-C stops it.")
	say("")
	say("  gateway    %s  (ready: %s, metrics: %s)", e.Gateway, e.Ready, e.Metrics)
	say("  identity   %s", e.Issuer)
	say("  users      admin@test / admin    user@test / user    user-b@test / user-b")
	say("  state      %s  (logs in %s)", e.StateDir, s.path("logs"))
	say("")
	say("From the command line:")
	if active != profileName {
		say("  sallyport gateway select %s", profileName)
	}
	say("  sallyport gateway login %s        # in the browser; only admin@test may create providers", profileName)
	say("  sallyport provider create --name demo --type generic --driver-credential TOKEN=%s", devidp.DemoClient)
	say("  sallyport sandbox create --name hello --provider demo")
	say("  sallyport sandbox exec -n hello -- sh -c 'echo ${#TOKEN}'")
	say("")
	say("With curl:")
	say("  curl --cacert %s -H 'Connect-Protocol-Version: 1' -H 'Content-Type: application/json' \\", e.CAFile)
	say("    -d '{}' %s/openshell.v1.OpenShell/Health", e.Gateway)
	say("  TOKEN=$(curl -s -d grant_type=password -d client_id=%s -d username=user@test -d password=user \\", e.ClientID)
	say("    -d 'scope=openid openshell:all' %s | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')", s.idp.TokenEndpoint())
	say("  curl --cacert %s -H \"Authorization: Bearer $TOKEN\" -H 'Connect-Protocol-Version: 1' \\", e.CAFile)
	say("    -H 'Content-Type: application/json' -d '{}' %s/openshell.v1.OpenShell/ListSandboxes", e.Gateway)
	say("")
	say("With grpcurl:")
	say("  grpcurl -cacert %s -H \"authorization: Bearer $TOKEN\" -d '{}' %s \\", e.CAFile, strings.TrimPrefix(e.Gateway, "https://"))
	say("    openshell.v1.OpenShell/ListSandboxes")
	return b.String()
}
