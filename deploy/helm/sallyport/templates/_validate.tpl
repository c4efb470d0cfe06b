{{/* What no schema can say: values that do not go together. All mistakes are told at once. */}}
{{- define "sallyport.validate" -}}
{{- $wrong := list -}}
{{- $server := .Values.server -}}
{{- if gt (int .Values.replicaCount) 1 -}}
{{- $wrong = append $wrong "replicaCount: must be 1: the sessions of sandboxes are held by one process, so a second gateway could not reach them. Give each tenant a release of its own" -}}
{{- end -}}
{{- if and (not $server.disableTls) (not (include "sallyport.tlsOwner" .)) -}}
{{- $wrong = append $wrong "server.tls.certSecretName: nothing makes a certificate: switch pkiInitJob.enabled or certManager.enabled on, name a Secret here, or set server.disableTls behind a proxy that ends TLS" -}}
{{- end -}}
{{- if and $server.tls.certSecretName .Values.certManager.enabled -}}
{{- $wrong = append $wrong "server.tls.certSecretName: names a Secret of yours while certManager.enabled makes one: a Secret has one owner. Empty this value, or switch certManager off" -}}
{{- end -}}
{{- if and $server.disableTls $server.tls.enableMtls -}}
{{- $wrong = append $wrong "server.tls.enableMtls: no client certificates without TLS: set server.disableTls to false" -}}
{{- end -}}
{{- if and $server.disableTls (not (hasPrefix "https://" $server.grpcEndpoint)) -}}
{{- $wrong = append $wrong "server.grpcEndpoint: with server.disableTls sandboxes need the https address of the proxy: they send no credential in clear text" -}}
{{- end -}}
{{- if and (include "sallyport.externalTlsSecret" .) (eq (include "sallyport.externalNames" .) "[]") -}}
{{- $wrong = append $wrong "server.tls.externalServerNames: name the server names that get the external certificate" -}}
{{- end -}}
{{- if ne (empty $server.oidc.adminRole) (empty $server.oidc.userRole) -}}
{{- $wrong = append $wrong "server.oidc: one of adminRole and userRole is empty: name both, or empty both to let whoever signs in do everything" -}}
{{- end -}}
{{- if and (empty $server.oidc.adminRole) (empty $server.oidc.userRole) (not (has $server.authorizationMode (list "" "authenticated"))) -}}
{{- $wrong = append $wrong (printf "server.authorizationMode: %s needs the role names server.oidc.adminRole and userRole" $server.authorizationMode) -}}
{{- end -}}
{{- if and $server.tenantClaim (not .Values.tenant) -}}
{{- $wrong = append $wrong "server.tenantClaim: needs tenant, which every token must name in this claim" -}}
{{- end -}}
{{- if not .Values.persistence.enabled -}}
{{- if not (include "sallyport.jwtSecret" .) -}}
{{- $wrong = append $wrong "persistence.enabled: without a volume the keys of sandbox tokens would be lost with the pod, and its sandboxes locked out: switch pkiInitJob.enabled on or name server.sandboxJwt.signingSecretName" -}}
{{- end -}}
{{- if not (include "sallyport.keySecret" .) -}}
{{- $wrong = append $wrong "persistence.enabled: without a volume the key of stored credentials would be lost with the pod: switch pkiInitJob.enabled on or name server.credentialStorage.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- if lt (int .Values.podLifecycle.terminationGracePeriodSeconds) (add (int $server.shutdownGraceSecs) 10 | int) -}}
{{- $wrong = append $wrong (printf "podLifecycle.terminationGracePeriodSeconds: must be at least %d, 10 more than server.shutdownGraceSecs, or the gateway is killed while it lets calls finish" (add (int $server.shutdownGraceSecs) 10 | int)) -}}
{{- end -}}
{{- if and (eq $server.drivers.kubernetes.workspaceMode "operator") (not $server.drivers.kubernetes.operatorNamespaces) -}}
{{- $wrong = append $wrong "server.drivers.kubernetes.operatorNamespaces: name the namespaces of the mode operator" -}}
{{- end -}}
{{- if and (eq $server.drivers.kubernetes.workspaceMode "managed") (not (regexMatch "^[a-z0-9][-a-z0-9]{0,42}$" (include "sallyport.namespacePrefix" .))) -}}
{{- $wrong = append $wrong (printf "server.drivers.kubernetes.namespacePrefix: %s cannot begin the name of a namespace: set it to at most 43 lower-case letters, digits and hyphens" (include "sallyport.namespacePrefix" .)) -}}
{{- end -}}
{{- if and (eq $server.drivers.kubernetes.podSecurity "restricted") $server.drivers.kubernetes.capabilities -}}
{{- $wrong = append $wrong "server.drivers.kubernetes.capabilities: the level restricted allows none: set podSecurity to baseline or privileged, or empty this list" -}}
{{- end -}}
{{- if and .Values.openshiftRoute.enabled $server.disableTls -}}
{{- $wrong = append $wrong "openshiftRoute.enabled: the route passes TLS through, which the gateway then has to end: set server.disableTls to false" -}}
{{- end -}}
{{- if and .Values.tlsRoute.enabled $server.disableTls -}}
{{- $wrong = append $wrong "tlsRoute.enabled: the route passes TLS through, which the gateway then has to end: set server.disableTls to false" -}}
{{- end -}}
{{- if and .Values.tlsRoute.enabled (not .Values.tlsRoute.parentRefs) -}}
{{- $wrong = append $wrong "tlsRoute.parentRefs: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled .Values.grpcRoute.gateway.create -}}
{{- if not .Values.grpcRoute.gateway.className -}}
{{- $wrong = append $wrong "grpcRoute.gateway.className: name the GatewayClass of the Gateway to make" -}}
{{- end -}}
{{- if and (eq .Values.grpcRoute.gateway.listener.protocol "HTTPS") (not .Values.grpcRoute.gateway.listener.tls.certificateRefs) -}}
{{- $wrong = append $wrong "grpcRoute.gateway.listener.tls.certificateRefs: name the Secret of the listener's certificate" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.gateway.create) (not .Values.grpcRoute.gateway.name) -}}
{{- $wrong = append $wrong "grpcRoute.gateway.name: name the Gateway that the route belongs to, or have one made with grpcRoute.gateway.create" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- $wrong = append $wrong "ingress.hosts: name the hosts of the Ingress" -}}
{{- end -}}
{{- $ports := list -}}
{{- range list .Values.service.targetPort .Values.service.healthPort .Values.service.metricsPort .Values.computeDriver.metricsPort -}}
{{- if . }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- end -}}
{{- if ne (len $ports) (len (uniq $ports)) -}}
{{- $wrong = append $wrong "service: targetPort, healthPort, metricsPort and computeDriver.metricsPort must differ: they are ports of one pod" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.metricsPort) (not .Values.computeDriver.metricsPort) -}}
{{- $wrong = append $wrong "serviceMonitor.enabled: there are no metrics: set service.metricsPort" -}}
{{- end -}}
{{- range $server.oidc.issuers -}}
{{- if eq .name "default" -}}
{{- $wrong = append $wrong "server.oidc.issuers: the name default is that of server.oidc.issuer: choose another" -}}
{{- end -}}
{{- end -}}
{{- with $wrong -}}
{{- fail (printf "values that do not go together:\n  %s" (join "\n  " .)) -}}
{{- end -}}
{{- end -}}
