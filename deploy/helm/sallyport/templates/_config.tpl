{{/*
gateway.toml. "sallyport.config" is the file as YAML, what gateway.config adds included; test/chart has the gateway itself
check each render of it.
*/}}

{{/* The keys of one issuer: context, the issuer's values, and its name for paths. */}}
{{- define "sallyport.config.issuer" -}}
{{- $o := .oidc -}}
issuer: {{ $o.issuer | quote }}
jwks_ttl_secs: {{ $o.jwksTtl | default 3600 | int }}
roles_claim: {{ $o.rolesClaim | default "realm_access.roles" | quote }}
scopes_claim: {{ $o.scopesClaim | default "" | quote }}
username_claim: {{ $o.usernameClaim | default "preferred_username" | quote }}
{{- if $o.caConfigMapName }}
ca_path: /etc/openshell-tls/oidc/{{ .name }}/ca.crt
{{- end }}
{{- with $o.discoveryUrl }}
discovery_url: {{ . | quote }}
{{- end }}
{{- with $o.algorithms }}
algorithms: {{ toRawJson . }}
{{- end }}
{{- if $o.allowMissingAudience }}
allow_missing_audience: true
{{- end }}
{{- if $o.acceptIdTokens }}
accept_id_tokens: true
{{- end }}
{{- with $o.required }}
required: {{ toRawJson . }}
{{- end }}
{{- with $o.roleMap }}
role_map: {{ toRawJson . }}
{{- end }}
{{- if $o.strictRoles }}
strict_roles: true
{{- end }}
{{- with $o.defaultRoles }}
default_roles: {{ toRawJson . }}
{{- end }}
{{- with $o.tenant }}
tenant: {{ . | quote }}
{{- end }}
{{- if $o.optional }}
optional: true
{{- end }}
{{- end -}}

{{- define "sallyport.config.oidc" -}}
{{- $oidc := .Values.server.oidc -}}
admin_role: {{ $oidc.adminRole | quote }}
user_role: {{ $oidc.userRole | quote }}
{{- if $oidc.issuer }}
{{ include "sallyport.config.issuer" (dict "oidc" $oidc "name" "default") }}
audience: {{ include "sallyport.audience" . | quote }}
{{- with $oidc.audiences }}
audiences: {{ toRawJson . }}
{{- end }}
{{- end }}
{{- with $oidc.issuers }}
issuers:
{{- range . }}
- name: {{ .name | quote }}
  audiences: {{ toRawJson .audiences }}
  {{- include "sallyport.config.issuer" (dict "oidc" . "name" .name) | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sallyport.audience" -}}
{{- .Values.server.oidc.audience | default (.Values.tenant | default "openshell-cli") -}}
{{- end -}}

{{- define "sallyport.config.tls" -}}
{{- $tls := .Values.server.tls -}}
cert_path: /etc/openshell-tls/server/tls.crt
key_path: /etc/openshell-tls/server/tls.key
{{- if $tls.enableMtls }}
client_ca_path: /etc/openshell-tls/{{ ternary "client-ca" "server" (ne $tls.clientCaSecretName "") }}/ca.crt
{{- end }}
{{- if not (kindIs "invalid" $tls.requireClientAuth) }}
require_client_auth: {{ $tls.requireClientAuth }}
{{- end }}
{{- if include "sallyport.externalTlsSecret" . }}
external_cert_path: /etc/openshell-tls/server-external/tls.crt
external_key_path: /etc/openshell-tls/server-external/tls.key
external_server_names: {{ include "sallyport.externalNames" . }}
{{- end }}
{{- end -}}

{{- define "sallyport.config.limits" -}}
{{- range $key, $value := .Values.server.limits }}
{{- if not (kindIs "invalid" $value) }}
{{ snakecase $key }}: {{ if kindIs "bool" $value }}{{ $value }}{{ else }}{{ int64 $value }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sallyport.config.kubernetes" -}}
{{- $k8s := .Values.server.drivers.kubernetes -}}
enabled: true
service_account: {{ include "sallyport.sandboxServiceAccountName" . }}
{{- if eq $k8s.workspaceMode "managed" }}
namespace_prefix: {{ include "sallyport.namespacePrefix" . }}
{{- else if eq $k8s.workspaceMode "operator" }}
namespaces: {{ toRawJson $k8s.operatorNamespaces }}
{{- else }}
namespaces: [{{ include "sallyport.sandboxNamespace" . | quote }}]
{{- end }}
{{- end -}}

{{- define "sallyport.config.jwt" -}}
gateway_id: {{ include "sallyport.gatewayId" . | quote }}
ttl_secs: {{ int64 .Values.server.sandboxJwt.ttlSecs }}
recovery_secs: {{ int64 .Values.server.sandboxJwt.recoverySecs }}
{{- if include "sallyport.jwtSecret" . }}
signing_key_path: /etc/openshell-jwt/signing.pem
public_key_path: /etc/openshell-jwt/public.pem
kid_path: /etc/openshell-jwt/kid
{{- end }}
{{- end -}}

{{- define "sallyport.config.audit" -}}
{{- $audit := .Values.server.audit -}}
enabled: {{ $audit.enabled }}
{{- with $audit.dir }}
dir: {{ . | quote }}
{{- end }}
max_bytes: {{ int64 $audit.maxBytes }}
keep_files: {{ int64 $audit.keepFiles }}
{{- with $audit.otlpEndpoint }}
otlp_endpoint: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* An address of the gateway: context and port. */}}
{{- define "sallyport.address" -}}
{{- $ip := .root.Values.server.bindAddress -}}
{{- if contains ":" $ip }}{{ $ip = printf "[%s]" $ip }}{{ end -}}
{{- printf "%s:%d" $ip (int .port) -}}
{{- end -}}

{{- define "sallyport.config.gateway" -}}
{{- $server := .Values.server -}}
bind_address: {{ include "sallyport.address" (dict "root" . "port" .Values.service.targetPort) | quote }}
health_bind_address: {{ include "sallyport.address" (dict "root" . "port" .Values.service.healthPort) | quote }}
{{- if .Values.service.metricsPort }}
metrics_bind_address: {{ include "sallyport.address" (dict "root" . "port" .Values.service.metricsPort) | quote }}
{{- end }}
log_level: {{ $server.logLevel }}
log_format: {{ $server.logFormat }}
state_dir: /var/openshell
shutdown_grace_secs: {{ int64 $server.shutdownGraceSecs }}
ssh_session_ttl_secs: {{ int64 $server.sshSessionTtlSecs }}
compute_drivers: [kubernetes]
{{- if .Values.credentialsDriver.enabled }}
credentials_driver_socket: {{ .Values.credentialsDriver.socket | quote }}
{{- end }}
{{- with $server.authorizationMode }}
authorization_mode: {{ . }}
{{- end }}
sandbox_ownership: {{ $server.sandboxOwnership }}
{{- with $server.tenantClaim }}
tenant: {{ $.Values.tenant | quote }}
tenant_claim: {{ . | quote }}
{{- end }}
{{- if and $server.grpcRateLimit.requests $server.grpcRateLimit.windowSeconds }}
grpc_rate_limit_requests: {{ int64 $server.grpcRateLimit.requests }}
grpc_rate_limit_window_seconds: {{ int64 $server.grpcRateLimit.windowSeconds }}
{{- end }}
{{- with $server.allowedHosts }}
allowed_hosts: {{ toRawJson . }}
{{- end }}
{{- with $server.allowedOrigins }}
allowed_origins: {{ toRawJson . }}
{{- end }}
{{- if $server.disableFastPath }}
disable_fast_path: true
{{- end }}
{{- if $server.disableTls }}
disable_tls: true
{{- else }}
tls:
  {{- include "sallyport.config.tls" . | nindent 2 }}
{{- end }}
oidc:
  {{- include "sallyport.config.oidc" . | nindent 2 }}
{{- if $server.externalDbSecret }}
database:
  lease_wait_secs: {{ int64 $server.dbLeaseWaitSecs }}
  {{- if $server.dbPasswordSecret }}
  password_file: /etc/openshell-db/{{ $server.dbPasswordSecretKey }}
  {{- end }}
{{- end }}
{{- if $server.auth.allowUnauthenticatedUsers }}
auth:
  allow_unauthenticated_users: true
{{- end }}
gateway_jwt:
  {{- include "sallyport.config.jwt" . | nindent 2 }}
kubernetes:
  {{- include "sallyport.config.kubernetes" . | nindent 2 }}
audit:
  {{- include "sallyport.config.audit" . | nindent 2 }}
{{- with include "sallyport.config.limits" . }}
limits:
  {{- . | nindent 2 }}
{{- end }}
{{- with include "sallyport.serviceWildcards" . | fromJsonArray }}
server_sans: {{ toRawJson . }}
{{- end }}
services:
  session_ttl_secs: {{ int64 $server.services.sessionTtlSecs }}
  {{- with $server.services.url }}
  url: {{ . | quote }}
  {{- end }}
{{- if $server.enableWebsocketTunnel }}
websocket_tunnel:
  enabled: true
{{- end }}
{{- if $server.edgeAuth }}
edge_auth:
  enabled: true
{{- end }}
{{- with $server.otlp.endpoint }}
otlp:
  endpoint: {{ . | quote }}
  {{- with $server.otlp.serviceName }}
  service_name: {{ . | quote }}
  {{- end }}
  {{- if $server.otlp.caConfigMapName }}
  ca_path: /etc/openshell-tls/otlp/ca.crt
  {{- end }}
{{- end }}
{{- end -}}

{{/* The content of [openshell], as YAML. */}}
{{- define "sallyport.config" -}}
{{- $made := dict
  "version" 1
  "gateway" (include "sallyport.config.gateway" . | fromYaml)
  "drivers" (dict "kubernetes" (dict "socket_path" .Values.computeDriver.socket)) -}}
{{- mergeOverwrite $made (deepCopy .Values.gateway.config) | toYaml -}}
{{- end -}}

{{- define "sallyport.gatewayToml" -}}
# Made by the chart {{ .Chart.Name }} from its values.
{{- include "sallyport.toml.table" (dict "path" "openshell" "map" (include "sallyport.config" . | fromYaml)) }}
{{- end -}}

{{/*
A sum over the settings that the gateway reads at its start alone. It is an annotation of the pod, so that a change of one
of them restarts it, and a change of any other is taken over while it runs. test/chart compares the lists with
docs/configuration.md.
*/}}
{{- define "sallyport.configSum" -}}
{{- $config := include "sallyport.config" . | fromYaml -}}
{{- $gateway := omit $config.gateway "log_level" "tls" "oidc" "authorization_mode" "sandbox_ownership" "tenant" "tenant_claim" "grpc_rate_limit_requests" "grpc_rate_limit_window_seconds" -}}
{{- $limits := omit ($gateway.limits | default dict) "principal_requests_per_second" "principal_burst" "tenant_requests_per_second" "tenant_burst" "anonymous_requests_per_second" "anonymous_burst" "failed_attempts_per_minute" -}}
{{- $gateway = omit $gateway "limits" -}}
{{- if $limits }}{{ $_ := set $gateway "limits" $limits }}{{ end -}}
{{- set $config "gateway" $gateway | toJson | sha256sum -}}
{{- end -}}
