{{/* Names under which the gateway is reached, which its certificate has to have. */}}

{{/* Hosts that objects of the chart give to the outside, as a list. */}}
{{- define "sallyport.hosts" -}}
{{- $hosts := list -}}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts .Values.ingress.hosts }}{{ end -}}
{{- if .Values.grpcRoute.enabled }}{{ $hosts = concat $hosts .Values.grpcRoute.hostnames }}{{ end -}}
{{- if .Values.tlsRoute.enabled }}{{ $hosts = concat $hosts .Values.tlsRoute.hostnames }}{{ end -}}
{{- if and .Values.openshiftRoute.enabled .Values.openshiftRoute.host }}{{ $hosts = append $hosts .Values.openshiftRoute.host }}{{ end -}}
{{- uniq $hosts | toJson -}}
{{- end -}}

{{/* All DNS names of the server's certificate: context and the operator's own list. */}}
{{- define "sallyport.dnsNames" -}}
{{- $name := include "sallyport.fullname" .root -}}
{{- $ns := .root.Release.Namespace -}}
{{- $names := list $name (printf "%s.%s" $name $ns) (printf "%s.%s.svc" $name $ns) (printf "%s.%s.svc.cluster.local" $name $ns) "localhost" -}}
{{- range .root.Values.server.services.domains }}{{ $names = append $names (printf "*.%s" .) }}{{ end -}}
{{- concat $names (include "sallyport.hosts" .root | fromJsonArray) .extra | uniq | toJson -}}
{{- end -}}

{{/* Wildcards among them: the domains that services of sandboxes are served under. */}}
{{- define "sallyport.serviceWildcards" -}}
{{- $extra := ternary .Values.certManager.serverDnsNames .Values.pkiInitJob.serverDnsNames .Values.certManager.enabled -}}
{{- $wildcards := list -}}
{{- range include "sallyport.dnsNames" (dict "root" . "extra" $extra) | fromJsonArray -}}
{{- if hasPrefix "*." . }}{{ $wildcards = append $wildcards . }}{{ end -}}
{{- end -}}
{{- $wildcards | toJson -}}
{{- end -}}

{{/* Secret of the external certificate, if there is one. */}}
{{- define "sallyport.externalTlsSecret" -}}
{{- if .Values.server.disableTls -}}
{{- else if .Values.server.tls.externalCertSecretName -}}
{{- .Values.server.tls.externalCertSecretName -}}
{{- else if and .Values.certManager.enabled .Values.certManager.serverIssuerRef.name -}}
{{- include "sallyport.fullname" . }}-server-external-tls
{{- end -}}
{{- end -}}

{{- define "sallyport.externalNames" -}}
{{- concat .Values.server.tls.externalServerNames (include "sallyport.hosts" . | fromJsonArray) | uniq | toJson -}}
{{- end -}}
