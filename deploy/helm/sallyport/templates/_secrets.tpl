{{/*
Who owns a Secret. Each has one owner: the operator, who then names it, cert-manager, or the job. Where a key has no Secret
the gateway keeps it on its volume.
*/}}

{{/* Owner of the server's certificate: given, cert-manager or job; empty without TLS. */}}
{{- define "sallyport.tlsOwner" -}}
{{- if .Values.server.disableTls -}}
{{- else if .Values.server.tls.certSecretName -}}
given
{{- else if .Values.certManager.enabled -}}
cert-manager
{{- else if .Values.pkiInitJob.enabled -}}
job
{{- end -}}
{{- end -}}

{{- define "sallyport.serverTlsSecret" -}}
{{- $own := .Values.secretNames.serverTls | default (printf "%s-server-tls" (include "sallyport.fullname" .)) -}}
{{- .Values.server.tls.certSecretName | default $own -}}
{{- end -}}

{{- define "sallyport.clientTlsSecret" -}}
{{- $own := .Values.secretNames.clientTls | default (printf "%s-client-tls" (include "sallyport.fullname" .)) -}}
{{- .Values.server.tls.clientTlsSecretName | default $own -}}
{{- end -}}

{{/* Secret of the keys that sign sandbox tokens; empty if they lie on the volume. */}}
{{- define "sallyport.jwtSecret" -}}
{{- if .Values.server.sandboxJwt.signingSecretName -}}
{{- .Values.server.sandboxJwt.signingSecretName -}}
{{- else if .Values.pkiInitJob.enabled -}}
{{- .Values.secretNames.jwtKeys | default (printf "%s-jwt-keys" (include "sallyport.fullname" .)) -}}
{{- end -}}
{{- end -}}

{{/* Secret of the key that seals credentials; empty if it lies on the volume. */}}
{{- define "sallyport.keySecret" -}}
{{- if .Values.server.credentialStorage.existingSecret -}}
{{- .Values.server.credentialStorage.existingSecret -}}
{{- else if .Values.pkiInitJob.enabled -}}
{{- .Values.secretNames.keyEncryptionKey | default (printf "%s-key-encryption-key" (include "sallyport.fullname" .)) -}}
{{- end -}}
{{- end -}}

{{/* Secret of the authority that signs certificates of the job or of cert-manager. */}}
{{- define "sallyport.caSecret" -}}
{{- .Values.secretNames.ca | default (printf "%s-ca" (include "sallyport.fullname" .)) -}}
{{- end -}}

{{/* Secret of the authority that sandboxes check the gateway with; empty for those of their image. */}}
{{- define "sallyport.endpointCaSecret" -}}
{{- if .Values.server.grpcEndpointCaSecret -}}
{{- .Values.server.grpcEndpointCaSecret -}}
{{- else if not .Values.server.disableTls -}}
{{- include "sallyport.serverTlsSecret" . -}}
{{- end -}}
{{- end -}}
