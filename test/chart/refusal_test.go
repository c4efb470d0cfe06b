package chart_test

import (
	"strings"
	"testing"
)

// TestRefusals are values that do not go together, and what is said about them.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ values, want string }{
		"replicas":             {`{replicaCount: 2}`, "replicaCount: must be 1: the sessions of sandboxes are held by one process"},
		"no certificate":       {`{pkiInitJob: {enabled: false}}`, "server.tls.certSecretName: nothing makes a certificate"},
		"two owners":           {`{certManager: {enabled: true}, server: {tls: {certSecretName: mine}}}`, "a Secret has one owner"},
		"mtls without tls":     {`{server: {disableTls: true, tls: {enableMtls: true}}}`, "server.tls.enableMtls: no client certificates without TLS"},
		"external names":       {`{server: {tls: {externalCertSecretName: e}}}`, "server.tls.externalServerNames: name the server names"},
		"one role":             {`{server: {oidc: {adminRole: ""}}}`, "server.oidc: one of adminRole and userRole is empty"},
		"mode without roles":   {`{server: {authorizationMode: roles, oidc: {adminRole: "", userRole: ""}}}`, "server.authorizationMode: roles needs the role names"},
		"claim without tenant": {`{server: {tenantClaim: groups}}`, "server.tenantClaim: needs tenant"},
		"keys without a volume": {
			`{persistence: {enabled: false}, pkiInitJob: {enabled: false}, server: {tls: {certSecretName: c}}}`,
			"persistence.enabled: without a volume the keys of sandbox tokens would be lost",
		},
		"grace":             {`{server: {shutdownGraceSecs: 60}}`, "podLifecycle.terminationGracePeriodSeconds: must be at least 70"},
		"operator":          {`{server: {drivers: {kubernetes: {workspaceMode: operator}}}}`, "server.drivers.kubernetes.operatorNamespaces: name the namespaces"},
		"prefix":            {`{tenant: Team_1, server: {drivers: {kubernetes: {workspaceMode: managed}}}}`, "server.drivers.kubernetes.namespacePrefix: openshell-openshell-Team_1- cannot begin"},
		"capabilities":      {`{server: {drivers: {kubernetes: {capabilities: [NET_ADMIN]}}}}`, "server.drivers.kubernetes.capabilities: the level restricted allows none"},
		"route":             {`{openshiftRoute: {enabled: true}, server: {disableTls: true}}`, "openshiftRoute.enabled: the route passes TLS through"},
		"tls route":         {`{tlsRoute: {enabled: true, parentRefs: [{name: g}]}, server: {disableTls: true}}`, "tlsRoute.enabled: the route passes TLS through"},
		"parents":           {`{tlsRoute: {enabled: true}}`, "tlsRoute.parentRefs: name the Gateway"},
		"gateway":           {`{grpcRoute: {enabled: true}}`, "grpcRoute.gateway.name: name the Gateway"},
		"gateway class":     {`{grpcRoute: {enabled: true, gateway: {create: true, listener: {protocol: HTTP}}}}`, "grpcRoute.gateway.className"},
		"listener":          {`{grpcRoute: {enabled: true, gateway: {create: true, className: eg}}}`, "grpcRoute.gateway.listener.tls.certificateRefs"},
		"ingress":           {`{ingress: {enabled: true}}`, "ingress.hosts: name the hosts"},
		"no metrics":        {`{serviceMonitor: {enabled: true}, service: {metricsPort: 0}, computeDriver: {metricsPort: 0}}`, "serviceMonitor.enabled: there are no metrics"},
		"clear text":        {`{server: {disableTls: true, grpcEndpoint: "http://gw"}}`, "server.grpcEndpoint: with server.disableTls sandboxes need the https address of the proxy"},
		"ports":             {`{service: {healthPort: 9090}}`, "service: targetPort, healthPort, metricsPort and computeDriver.metricsPort must differ"},
		"issuer's name":     {`{server: {oidc: {issuers: [{name: default, issuer: "https://i", audiences: [a]}]}}}`, "server.oidc.issuers: the name default"},
		"issuer's names":    {`{server: {oidc: {issuers: [{name: Bad_Name, issuer: "https://i", audiences: [a]}]}}}`, "/server/oidc/issuers/0/name"},
		"issuer's key":      {`{server: {oidc: {issuers: [{name: a, issuer: "https://i", audiences: [a], adminRole: x}]}}}`, "additional properties 'adminRole' not allowed"},
		"credential's key":  {`{credentialsDriver: {credentials: {c: {client_secret: x, client_id: a, client_secret_ref: b, token_endpoint: "https://t"}}}}`, "additional properties 'client_secret' not allowed"},
		"database in clear": {`{server: {dbUrl: "postgres://u:p@h/d"}}`, "/server/dbUrl"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := release{text: c.values}.render(t)
			if err == nil {
				t.Fatal("rendered")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestMistakesAreToldTogether expects all mistakes of one render at once.
func TestMistakesAreToldTogether(t *testing.T) {
	t.Parallel()
	_, err := release{text: `{replicaCount: 2, ingress: {enabled: true}, server: {tenantClaim: groups}}`}.render(t)
	if err == nil {
		t.Fatal("rendered")
	}
	for _, want := range []string{"replicaCount:", "ingress.hosts:", "server.tenantClaim:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not among %v", want, err)
		}
	}
}
