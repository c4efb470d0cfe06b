{{/* The job that makes certificates and keys. */}}

{{/*
Names of the Secrets that the job makes, as a map of its flags. A Secret of yours that is among them is read and never
changed: those that the job may change bear its label.
*/}}
{{- define "sallyport.jobSecrets" -}}
{{- if .Values.pkiInitJob.enabled -}}
{{- if eq (include "sallyport.tlsOwner" .) "job" }}
server-secret-name: {{ include "sallyport.serverTlsSecret" . }}
client-secret-name: {{ include "sallyport.clientTlsSecret" . }}
ca-secret-name: {{ include "sallyport.caSecret" . }}
{{- end }}
jwt-secret-name: {{ include "sallyport.jwtSecret" . }}
{{- if not .Values.server.credentialStorage.existingSecret }}
key-encryption-key-secret-name: {{ include "sallyport.keySecret" . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Service account of the job, which may make Secrets, and read and change its own. */}}
{{- define "sallyport.certgenAccess" }}
---
apiVersion: v1
kind: ServiceAccount
{{ include "sallyport.metadata" . }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
{{ include "sallyport.metadata" . }}
rules:
  - apiGroups: [""]
    resources: [secrets]
    verbs: [create]
  - apiGroups: [""]
    resources: [secrets]
    resourceNames: {{ include "sallyport.jobSecrets" .root | fromYaml | values | sortAlpha | toJson }}
    verbs: [get, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
{{ include "sallyport.metadata" . }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/* What follows spec: of the job. */}}
{{- define "sallyport.certgenJob" -}}
{{- $root := .root -}}
{{- $job := $root.Values.pkiInitJob -}}
backoffLimit: 3
activeDeadlineSeconds: {{ int $job.activeDeadlineSeconds }}
ttlSecondsAfterFinished: 600
template:
  metadata:
    labels:
      {{- mergeOverwrite (include "sallyport.podLabels" $root | fromYaml) .labels | toYaml | nindent 6 }}
  spec:
    restartPolicy: Never
    enableServiceLinks: false
    serviceAccountName: {{ .account }}
    automountServiceAccountToken: false
    {{- with $root.Values.imagePullSecrets }}
    imagePullSecrets:
      {{- range . }}
      - name: {{ . }}
      {{- end }}
    {{- end }}
    {{- with $root.Values.nodeSelector }}
    nodeSelector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $root.Values.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- include "sallyport.podSecurityContext" $root | nindent 6 }}
    containers:
      - name: certgen
        image: {{ include "sallyport.image" (dict "root" $root "image" $root.Values.image) | quote }}
        imagePullPolicy: {{ include "sallyport.pullPolicy" (dict "root" $root "image" $root.Values.image) }}
        command: [/usr/local/bin/openshell-gateway]
        args:
          - generate-certs
          - --namespace={{ $root.Release.Namespace }}
          {{- range $flag, $secret := include "sallyport.jobSecrets" $root | fromYaml }}
          - --{{ $flag }}={{ $secret }}
          {{- end }}
          {{- if ne (include "sallyport.tlsOwner" $root) "job" }}
          - --jwt-only
          {{- else }}
          - --cert-lifetime={{ $job.certificateDuration }}
          - --renew-before={{ $job.certificateRenewBefore }}
          {{- range include "sallyport.dnsNames" (dict "root" $root "extra" $job.serverDnsNames) | fromJsonArray }}
          - {{ printf "--server-san=%s" . | quote }}
          {{- end }}
          {{- range concat (list "127.0.0.1") $job.serverIpAddresses | uniq }}
          - {{ printf "--server-san=%s" . | quote }}
          {{- end }}
          {{- end }}
        resources:
          {{- toYaml $job.resources | nindent 10 }}
        securityContext:
          {{- include "sallyport.securityContext" $root | nindent 10 }}
        volumeMounts:
          - name: api-token
            mountPath: /var/run/secrets/kubernetes.io/serviceaccount
            readOnly: true
    volumes:
      {{- include "sallyport.apiToken" $root | nindent 6 }}
{{- end -}}
