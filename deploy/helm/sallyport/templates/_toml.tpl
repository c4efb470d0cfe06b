{{/*
TOML. Helm's toToml writes 3600 as 3600.0, because numbers of values are floating point, and the gateway rightly refuses
that; so whole numbers are written as such here.
*/}}

{{/* A value on one line. */}}
{{- define "sallyport.toml.value" -}}
{{- if kindIs "string" . -}}
{{- toRawJson . -}}
{{- else if kindIs "bool" . -}}
{{- . -}}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "sallyport.toml.value" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "map" . -}}
{{- $items := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) }}{{ $items = append $items (printf "%s = %s" (include "sallyport.toml.key" $key) (include "sallyport.toml.value" $value)) }}{{ end -}}
{{- end -}}
{{ "{" }}{{ join ", " $items }}{{ "}" }}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end -}}

{{/* A table with what is below it: its path and its map. Lists of maps become arrays of tables. */}}
{{- define "sallyport.toml.table" -}}
{{- $path := .path -}}
{{- $tables := dict -}}
{{- $arrays := dict -}}
{{- $lines := list -}}
{{- range $key, $value := .map -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $tables $key $value -}}
{{- else if and (kindIs "slice" $value) $value (kindIs "map" (first $value)) -}}
{{- $_ := set $arrays $key $value -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $lines = append $lines (printf "%s = %s" (include "sallyport.toml.key" $key) (include "sallyport.toml.value" $value)) -}}
{{- end -}}
{{- end -}}
{{- if $lines }}
[{{ $path }}]
{{ join "\n" $lines }}
{{ end -}}
{{- range $key, $value := $tables -}}
{{- include "sallyport.toml.table" (dict "path" (printf "%s.%s" $path (include "sallyport.toml.key" $key)) "map" $value) -}}
{{- end -}}
{{- range $key, $entries := $arrays -}}
{{- range $entries }}
[[{{ $path }}.{{ include "sallyport.toml.key" $key }}]]
{{ range $k, $v := . -}}
{{- if not (kindIs "invalid" $v) -}}
{{ include "sallyport.toml.key" $k }} = {{ include "sallyport.toml.value" $v }}
{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
