{{/* Parts of the pod: its containers, what they mount, and as whom they run. */}}

{{/* Security context of the pod, without users and groups on OpenShift, which gives its own. */}}
{{- define "sallyport.podSecurityContext" -}}
{{- $context := .Values.podSecurityContext -}}
{{- if include "sallyport.openshift" . -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" "fsGroupChangePolicy" "supplementalGroups" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "sallyport.securityContext" -}}
{{- $context := .Values.securityContext -}}
{{- if include "sallyport.openshift" . -}}
{{- $context = omit $context "runAsUser" "runAsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* What all three containers take from values: context and the container's own values. */}}
{{- define "sallyport.env" -}}
{{- if .root.Values.trustedCABundle }}
- name: SSL_CERT_DIR
  value: /etc/ssl/certs:/etc/openshell-tls/trusted
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sallyport.mounts" -}}
- name: drivers
  mountPath: /run/drivers
{{- if .root.Values.trustedCABundle }}
- name: trusted-ca
  mountPath: /etc/openshell-tls/trusted
  readOnly: true
{{- end }}
{{- if .token }}
- name: api-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sallyport.gatewayArgs" -}}
- --config=/etc/openshell/gateway.toml
{{- with .Values.server.sshGatewayHost }}
- {{ printf "--ssh-gateway-host=%s" . | quote }}
{{- end }}
{{- with .Values.server.sshGatewayPort }}
- --ssh-gateway-port={{ int . }}
{{- end }}
{{- with .Values.server.sshConnectPath }}
- {{ printf "--ssh-connect-path=%s" . | quote }}
{{- end }}
{{- with .Values.gateway.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sallyport.gatewayEnv" -}}
- name: OPENSHELL_DB_URL
  {{- if .Values.server.externalDbSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.server.externalDbSecret }}
      key: {{ .Values.server.externalDbSecretKey }}
  {{- else }}
  value: {{ .Values.server.dbUrl | quote }}
  {{- end }}
{{- with include "sallyport.keySecret" . }}
- name: OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.server.credentialStorage.key }}
{{- end }}
{{- include "sallyport.env" (dict "root" . "values" .Values.gateway) }}
{{- end -}}

{{/* ConfigMaps of authorities of issuers: name of the issuer and of the ConfigMap. */}}
{{- define "sallyport.oidcAuthorities" -}}
{{- with .Values.server.oidc.caConfigMapName }}
default: {{ . }}
{{- end }}
{{- range .Values.server.oidc.issuers }}
{{- if .caConfigMapName }}
{{ .name }}: {{ .caConfigMapName }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sallyport.gatewayMounts" -}}
- name: config
  mountPath: /etc/openshell
  readOnly: true
- name: data
  mountPath: /var/openshell
{{- if not .Values.server.disableTls }}
- name: server-tls
  mountPath: /etc/openshell-tls/server
  readOnly: true
{{- if and .Values.server.tls.enableMtls .Values.server.tls.clientCaSecretName }}
- name: client-ca
  mountPath: /etc/openshell-tls/client-ca
  readOnly: true
{{- end }}
{{- if include "sallyport.externalTlsSecret" . }}
- name: server-external-tls
  mountPath: /etc/openshell-tls/server-external
  readOnly: true
{{- end }}
{{- end }}
{{- range $name, $_ := include "sallyport.oidcAuthorities" . | fromYaml }}
- name: oidc-ca-{{ $name }}
  mountPath: /etc/openshell-tls/oidc/{{ $name }}
  readOnly: true
{{- end }}
{{- if include "sallyport.jwtSecret" . }}
- name: jwt-keys
  mountPath: /etc/openshell-jwt
  readOnly: true
{{- end }}
{{- if and .Values.server.externalDbSecret .Values.server.dbPasswordSecret }}
- name: database-password
  mountPath: /etc/openshell-db
  readOnly: true
{{- end }}
{{- if .Values.server.otlp.caConfigMapName }}
- name: otlp-ca
  mountPath: /etc/openshell-tls/otlp
  readOnly: true
{{- end }}
{{ include "sallyport.mounts" (dict "root" . "values" .Values.gateway "token" true) }}
{{- end -}}

{{/* Flags of the compute driver. */}}
{{- define "sallyport.computeArgs" -}}
{{- $server := .Values.server -}}
{{- $k8s := $server.drivers.kubernetes -}}
- --socket={{ .Values.computeDriver.socket }}
- --namespace={{ include "sallyport.sandboxNamespace" . }}
- --tenant={{ .Values.tenant | default .Release.Namespace }}
- --gateway-id={{ include "sallyport.gatewayId" . }}
- --gateway-endpoint={{ include "sallyport.grpcEndpoint" . }}
- --supervisor-image={{ include "sallyport.image" (dict "root" . "image" .Values.supervisor.image) }}
- --supervisor-image-pull-policy={{ include "sallyport.pullPolicy" (dict "root" . "image" .Values.supervisor.image) }}
- --supervisor-binary-path={{ .Values.supervisor.binaryPath }}
- --supervisor-mount-path={{ .Values.supervisor.mountPath }}
- --supervisor-sideload={{ .Values.supervisor.sideloadMethod | default "auto" }}
{{- with include "sallyport.endpointCaSecret" . }}
- --tls-ca-secret={{ . }}
{{- end }}
{{- if $server.tls.enableMtls }}
- --tls-client-secret={{ include "sallyport.clientTlsSecret" . }}
{{- end }}
{{- with $server.sandboxImage }}
- --default-image={{ . }}
{{- end }}
{{- with $server.sandboxImagePullPolicy }}
- --sandbox-image-pull-policy={{ . }}
{{- end }}
{{- with $server.sandboxImagePullSecrets }}
- --image-pull-secrets={{ join "," . }}
{{- end }}
- --service-account={{ include "sallyport.sandboxServiceAccountName" . }}
- --sa-token-audience=openshell-gateway
- --sa-token-ttl-secs={{ int64 $server.sandboxJwt.k8sSaTokenTtlSecs }}
- --workspace-mode={{ $k8s.workspaceMode }}
{{- if eq $k8s.workspaceMode "managed" }}
- --namespace-prefix={{ include "sallyport.namespacePrefix" . }}
{{- if .Values.quota.enabled }}
- --quota-pods={{ .Values.quota.pods }}
- --quota-cpu={{ .Values.quota.requestsCpu }}
- --quota-memory={{ .Values.quota.requestsMemory }}
- --quota-claims={{ .Values.quota.pvcs }}
{{- end }}
{{- else if and (eq $k8s.workspaceMode "operator") $k8s.operatorNamespaceLabel }}
- --namespace-label={{ $k8s.operatorNamespaceLabel }}
{{- end }}
- --pod-security={{ $k8s.podSecurity }}
{{- with $k8s.capabilities }}
- --capabilities={{ join "," . }}
{{- end }}
{{- with $k8s.nodeSelector }}
{{- $pairs := list }}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end }}
- --node-selector={{ join "," $pairs }}
{{- end }}
{{- if $k8s.tolerations }}
- --tolerations-file=/etc/openshell-driver/tolerations.yaml
{{- end }}
{{- with $server.defaultRuntimeClassName }}
- --runtime-class={{ . }}
{{- end }}
{{- with $server.workspaceDefaultStorageSize }}
- --workspace-storage-size={{ . }}
{{- end }}
{{- with $server.workspaceStorageClass }}
- --workspace-storage-class={{ . }}
{{- end }}
{{- if not $server.workspaceSeed }}
- --workspace-seed=false
{{- end }}
{{- if not (kindIs "invalid" $server.sandboxUid) }}
- --sandbox-uid={{ int64 $server.sandboxUid }}
{{- else if include "sallyport.openshift" . }}
- --sandbox-uid=-1
{{- end }}
{{- if $server.enableUserNamespaces }}
- --user-namespaces
{{- end }}
{{- with $server.hostGatewayIP }}
- --host-gateway-ip={{ . }}
{{- end }}
- --metrics-port={{ int .Values.computeDriver.metricsPort }}
- --log-level={{ .Values.computeDriver.logLevel }}
{{- end -}}

{{/* Flags of the credentials driver. */}}
{{- define "sallyport.credentialsArgs" -}}
- --socket={{ .Values.credentialsDriver.socket }}
- --config=/etc/openshell/credentials.yaml
- --secrets-dir=/etc/openshell-secrets
- --log-level={{ .Values.credentialsDriver.logLevel }}
{{- if .Values.credentialsDriver.allowHttp }}
- --allow-http
{{- end }}
{{- end -}}

{{- define "sallyport.computeContainer" -}}
{{- $driver := .Values.computeDriver -}}
name: compute-driver
image: {{ include "sallyport.image" (dict "root" . "image" $driver.image) | quote }}
imagePullPolicy: {{ include "sallyport.pullPolicy" (dict "root" . "image" $driver.image) }}
# It runs on: it starts before the gateway and ends after it.
restartPolicy: Always
args:
  {{- if $driver.args }}
  {{- toYaml $driver.args | nindent 2 }}
  {{- else }}
  {{- include "sallyport.computeArgs" . | nindent 2 }}
  {{- end }}
  {{- with $driver.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with include "sallyport.env" (dict "root" . "values" $driver) }}
env:
  {{- . | nindent 2 }}
{{- end }}
{{- with $driver.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $driver.metricsPort }}
ports:
  - name: driver-metrics
    containerPort: {{ int $driver.metricsPort }}
livenessProbe:
  httpGet:
    path: /healthz
    port: driver-metrics
  initialDelaySeconds: 5
  periodSeconds: 10
  timeoutSeconds: 2
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: driver-metrics
  periodSeconds: 5
  timeoutSeconds: 2
{{- end }}
resources:
  {{- toYaml $driver.resources | nindent 2 }}
securityContext:
  {{- include "sallyport.securityContext" . | nindent 2 }}
volumeMounts:
  {{- include "sallyport.mounts" (dict "root" . "values" $driver "token" true) | nindent 2 }}
  {{- if .Values.server.drivers.kubernetes.tolerations }}
  - name: driver-config
    mountPath: /etc/openshell-driver
    readOnly: true
  {{- end }}
{{- end -}}

{{/* Command of a probe, which is told the socket. */}}
{{- define "sallyport.probe" -}}
{{- append .probeCommand (printf "--socket=%s" .socket) | toRawJson -}}
{{- end -}}

{{- define "sallyport.credentialsContainer" -}}
{{- $driver := .Values.credentialsDriver -}}
name: credentials-driver
image: {{ include "sallyport.image" (dict "root" . "image" $driver.image) | quote }}
imagePullPolicy: {{ include "sallyport.pullPolicy" (dict "root" . "image" $driver.image) }}
restartPolicy: Always
args:
  {{- if $driver.args }}
  {{- toYaml $driver.args | nindent 2 }}
  {{- else }}
  {{- include "sallyport.credentialsArgs" . | nindent 2 }}
  {{- end }}
  {{- with $driver.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with include "sallyport.env" (dict "root" . "values" $driver) }}
env:
  {{- . | nindent 2 }}
{{- end }}
{{- with $driver.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $driver.probeCommand }}
livenessProbe:
  exec:
    command: {{ include "sallyport.probe" $driver }}
  initialDelaySeconds: 5
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  exec:
    command: {{ include "sallyport.probe" $driver }}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}
resources:
  {{- toYaml $driver.resources | nindent 2 }}
securityContext:
  {{- include "sallyport.securityContext" . | nindent 2 }}
volumeMounts:
  - name: credentials-config
    mountPath: /etc/openshell
    readOnly: true
  - name: credentials-secrets
    mountPath: /etc/openshell-secrets
    readOnly: true
  {{- include "sallyport.mounts" (dict "root" . "values" $driver) | nindent 2 }}
{{- end -}}

{{- define "sallyport.gatewayContainer" -}}
name: gateway
image: {{ include "sallyport.image" (dict "root" . "image" .Values.image) | quote }}
imagePullPolicy: {{ include "sallyport.pullPolicy" (dict "root" . "image" .Values.image) }}
args:
  {{- include "sallyport.gatewayArgs" . | nindent 2 }}
env:
  {{- include "sallyport.gatewayEnv" . | nindent 2 }}
{{- with .Values.gateway.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: grpc
    containerPort: {{ int .Values.service.targetPort }}
  - name: health
    containerPort: {{ int .Values.service.healthPort }}
  {{- if .Values.service.metricsPort }}
  - name: metrics
    containerPort: {{ int .Values.service.metricsPort }}
  {{- end }}
startupProbe:
  httpGet:
    path: /healthz
    port: health
  {{- toYaml .Values.probes.startup | nindent 2 }}
livenessProbe:
  httpGet:
    path: /healthz
    port: health
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet:
    path: /readyz
    port: health
  {{- toYaml .Values.probes.readiness | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "sallyport.securityContext" . | nindent 2 }}
volumeMounts:
  {{- include "sallyport.gatewayMounts" . | nindent 2 }}
{{- end -}}
