{{/*
Names and labels. Every name follows from "sallyport.fullname", which is cut so that a CronJob's suffix fits: its name may have
52 characters.
*/}}

{{- define "sallyport.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sallyport.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "sallyport.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 38 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sallyport.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* Labels of every object; the component is the gateway's unless another one is given. */}}
{{- define "sallyport.labels" -}}
{{- $labels := include "sallyport.selectorLabels" . | fromYaml -}}
{{- $labels = mergeOverwrite $labels (dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "sallyport") -}}
{{- with .Values.tenant }}{{ $_ := set $labels "openshell.ai/tenant" . }}{{ end -}}
{{- mergeOverwrite (deepCopy .Values.commonLabels) $labels | toYaml -}}
{{- end -}}

{{/* Labels of the pod: none of the chart's version, so that an upgrade which changes nothing in the pod does not restart it. */}}
{{- define "sallyport.podLabels" -}}
{{- $labels := omit (include "sallyport.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by" -}}
{{- mergeOverwrite (deepCopy .Values.podLabels) $labels | toYaml -}}
{{- end -}}

{{/* The metadata of an object: context, name, and what is its own: labels, annotations, namespace. */}}
{{- define "sallyport.metadata" -}}
{{- $labels := mergeOverwrite (include "sallyport.labels" .root | fromYaml) (.labels | default dict) -}}
{{- $annotations := mergeOverwrite (deepCopy .root.Values.commonAnnotations) (.annotations | default dict) -}}
metadata:
  name: {{ .name }}
  {{- if not .cluster }}
  namespace: {{ .namespace | default .root.Release.Namespace }}
  {{- end }}
  labels:
    {{- toYaml $labels | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "sallyport.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "sallyport.fullname" .) -}}
{{- end -}}

{{- define "sallyport.sandboxServiceAccountName" -}}
{{- .Values.sandboxServiceAccount.name | default (printf "%s-sandbox" (include "sallyport.fullname" .)) -}}
{{- end -}}

{{- define "sallyport.sandboxNamespace" -}}
{{- .Values.server.sandboxNamespace | default .Release.Namespace -}}
{{- end -}}

{{- define "sallyport.gatewayId" -}}
{{- $id := ternary (printf "openshell-%s" .Values.tenant) (include "sallyport.fullname" .) (ne .Values.tenant "") -}}
{{- .Values.server.sandboxJwt.gatewayId | default $id -}}
{{- end -}}

{{- define "sallyport.namespacePrefix" -}}
{{- .Values.server.drivers.kubernetes.namespacePrefix | default (printf "openshell-%s-" (include "sallyport.gatewayId" .)) -}}
{{- end -}}

{{- define "sallyport.credentialsSecret" -}}
{{- .Values.credentialsDriver.secretName | default (printf "%s-credentials" (include "sallyport.fullname" .)) -}}
{{- end -}}

{{- define "sallyport.grpcEndpoint" -}}
{{- $scheme := ternary "http" "https" .Values.server.disableTls -}}
{{- $own := printf "%s://%s.%s.svc:%d" $scheme (include "sallyport.fullname" .) .Release.Namespace (int .Values.service.port) -}}
{{- .Values.server.grpcEndpoint | default $own -}}
{{- end -}}

{{/* "true" on OpenShift, else empty. */}}
{{- define "sallyport.openshift" -}}
{{- if eq (toString .Values.openshift.enabled) "auto" -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" }}true{{ end -}}
{{- else if .Values.openshift.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* A full image reference: context and the image's own values. */}}
{{- define "sallyport.image" -}}
{{- $global := .root.Values.global.image -}}
{{- $registry := .image.registry | default $global.registry -}}
{{- $name := .image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $registry) .image.repository }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default $global.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.pullPolicy" -}}
{{- .image.pullPolicy | default .root.Values.global.image.pullPolicy -}}
{{- end -}}
