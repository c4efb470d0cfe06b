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
- apiGroups: [agents.x-k8s.io]
  resources: [sandboxes/status]
  verbs: [get]
# Pods are read alone: their annotation says which sandbox they are, which nobody may change.
- apiGroups: [""]
  resources: [pods, events, persistentvolumeclaims]
  verbs: [get, list, watch]
{{- end -}}

{{/* In the whole cluster. */}}
{{- define "sallyport.clusterRules" -}}
# To have the service account tokens of sandboxes looked at.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- if eq .Values.server.drivers.kubernetes.workspaceMode "managed" }}
# Namespaces of workspaces, and what sandboxes need in them.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, update, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, update, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, update, patch]
{{ include "sallyport.sandboxRules" . }}
{{- end }}
{{- end -}}
