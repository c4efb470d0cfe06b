{{/* What the gateway and its compute driver may do. */}}

{{/* Namespaces in which sandboxes run and which are known beforehand, as a list. */}}
{{- define "sallyport.sandboxNamespaces" -}}
{{- $k8s := .Values.server.drivers.kubernetes -}}
{{- if eq $k8s.workspaceMode "managed" -}}
[]
{{- else if eq $k8s.workspaceMode "operator" -}}
{{ toJson $k8s.operatorNamespaces }}
{{- else -}}
{{ list (include "sallyport.sandboxNamespace" .) | toJson }}
{{- end -}}
{{- end -}}

{{/* In a namespace of sandboxes. Secrets are not among it. */}}
{{- define "sallyport.sandboxRules" -}}
- apiGroups: [agents.x-k8s.io]
  resources: [sandboxes]
  verbs: [get, list, watch, create, update, patch, delete]
{{ include "sallyport.podRules" . }}
{{- end -}}

{{/* Pods are read alone: their annotation says which sandbox they are, which nobody may change. */}}
{{- define "sallyport.podRules" -}}
- apiGroups: [""]
  resources: [pods, events, persistentvolumeclaims]
  verbs: [get, list, watch]
{{- end -}}

{{/* Secrets that the driver brings into namespaces it makes, as a list. */}}
{{- define "sallyport.copiedSecrets" -}}
{{- $names := list -}}
{{- with include "sallyport.endpointCaSecret" . }}{{ $names = append $names . }}{{ end -}}
{{- if .Values.server.tls.enableMtls }}{{ $names = append $names (include "sallyport.clientTlsSecret" .) }}{{ end -}}
{{- concat $names .Values.server.sandboxImagePullSecrets | uniq | toJson -}}
{{- end -}}

{{/* In the whole cluster. */}}
{{- define "sallyport.clusterRules" -}}
{{- $mode := .Values.server.drivers.kubernetes.workspaceMode -}}
# To have the service account tokens of sandboxes looked at.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- if eq $mode "operator" }}
# To find the namespaces of workspaces and to watch sandboxes in them. They are made by leave of a Role in each.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
- apiGroups: [agents.x-k8s.io]
  resources: [sandboxes]
  verbs: [get, list, watch]
{{ include "sallyport.podRules" . }}
{{- else if eq $mode "managed" }}
# Namespaces of workspaces, what sandboxes need in them, each by its name, and sandboxes.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, create, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  resourceNames: [{{ include "sallyport.sandboxServiceAccountName" . }}]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [limitranges, resourcequotas]
  resourceNames: [openshell-workspace]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  resourceNames: [openshell-no-ingress]
  verbs: [create, patch]
{{- with include "sallyport.copiedSecrets" . | fromJsonArray }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: {{ toJson . }}
  verbs: [create, patch]
{{- end }}
{{ include "sallyport.sandboxRules" . }}
{{- end }}
{{- end -}}
