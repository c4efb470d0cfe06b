{{/* Token for the API server, given by hand to the containers that need one. */}}
{{- define "sallyport.apiToken" -}}
- name: api-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}

{{- define "sallyport.volumes" -}}
- name: drivers
  # Sockets alone.
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: config
  configMap:
    name: {{ include "sallyport.fullname" . }}-config
{{ include "sallyport.apiToken" . }}
{{- if not .Values.server.disableTls }}
- name: server-tls
  secret:
    secretName: {{ include "sallyport.serverTlsSecret" . }}
    defaultMode: 0400
{{- if and .Values.server.tls.enableMtls .Values.server.tls.clientCaSecretName }}
- name: client-ca
  secret:
    secretName: {{ .Values.server.tls.clientCaSecretName }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- with include "sallyport.externalTlsSecret" . }}
- name: server-external-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0400
{{- end }}
{{- end }}
{{- range $name, $configMap := include "sallyport.oidcAuthorities" . | fromYaml }}
- name: oidc-ca-{{ $name }}
  configMap:
    name: {{ $configMap }}
{{- end }}
{{- with include "sallyport.jwtSecret" . }}
- name: jwt-keys
  secret:
    secretName: {{ . }}
    defaultMode: {{ $.Values.server.sandboxJwt.secretDefaultMode }}
{{- end }}
{{- if and .Values.server.externalDbSecret .Values.server.dbPasswordSecret }}
- name: database-password
  secret:
    secretName: {{ .Values.server.dbPasswordSecret }}
    defaultMode: 0400
{{- end }}
{{- with .Values.server.otlp.caConfigMapName }}
- name: otlp-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- if .Values.credentialsDriver.enabled }}
- name: credentials-config
  configMap:
    name: {{ include "sallyport.fullname" . }}-credentials
- name: credentials-secrets
  secret:
    secretName: {{ include "sallyport.credentialsSecret" . }}
    optional: true
    defaultMode: 0400
{{- end }}
{{- if .Values.server.drivers.kubernetes.tolerations }}
- name: driver-config
  configMap:
    name: {{ include "sallyport.fullname" . }}-driver
{{- end }}
{{- with .Values.trustedCABundle }}
- name: trusted-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- if not .Values.persistence.enabled }}
- name: data
  emptyDir: {}
{{- else if .Values.persistence.existingClaim }}
- name: data
  persistentVolumeClaim:
    claimName: {{ .Values.persistence.existingClaim }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
