{{/* One Larder runs on a node, since it has the node's ports: the names are fixed. */}}
{{- define "larder.labels" -}}
app.kubernetes.io/name: larder
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "larder.image" -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- end }}

{{/* The name of the pods' class; empty for the cluster's default. */}}
{{- define "larder.priorityClass" -}}
{{- if .Values.critical.enabled -}}
system-node-critical
{{- else if .Values.priorityClass.create -}}
{{ .Values.priorityClass.name | default "larder" }}
{{- else -}}
{{ .Values.priorityClass.name }}
{{- end -}}
{{- end }}

{{/* The text of a section of the configuration; empty where it has none. */}}
{{- define "larder.section" -}}
{{- regexFind (printf "(?ms)^[ \\t]*\\[%s\\].*?(^[ \\t]*\\[|\\z)" .name) .config -}}
{{- end }}

{{/* A key of a section as it is written, with its value, a text in one of TOML's two quotes; empty where it has none. */}}
{{- define "larder.key" -}}
{{- $value := "[ \\t]*=[ \\t]*(\"[^\"\\n]*\"|'[^'\\n]*')" -}}
{{- $section := include "larder.section" . -}}
{{- regexFind (printf "(?m)^[ \\t]*%s%s" .key $value) $section | default (regexFind (printf "(?m)^[ \\t]*%s\\.%s%s" .name .key $value) .config) -}}
{{- end }}

{{/* The probes ask the ports that the configuration opens, or the pods are never ready; and what is written elsewhere than
into the pod's volumes is written to a root that is read-only. */}}
{{- define "larder.checkConfig" -}}
{{- $config := .Values.config }}
{{- $listen := include "larder.key" (dict "config" $config "name" "admin" "key" "listen") }}
{{- if not (regexMatch (printf "[\"']127\\.0\\.0\\.1:%d[\"']$" (int .Values.ports.admin)) $listen) }}
{{- fail (printf "config: [admin] listen is not \"127.0.0.1:%d\", which ports.admin says" (int .Values.ports.admin)) }}
{{- end }}
{{- $metrics := include "larder.key" (dict "config" $config "name" "admin" "key" "metrics_listen") }}
{{- if not (regexMatch (printf ":%d[\"']$" (int .Values.ports.metrics)) $metrics) }}
{{- fail (printf "config: [admin] metrics_listen is not on port %d, which ports.metrics says" (int .Values.ports.metrics)) }}
{{- end }}
{{- range list (list "server" "state" "/var/lib/larder") (list "store" "path" "/var/lib/larder") (list "admin" "socket" "/run/larder") }}
{{- $written := include "larder.key" (dict "config" $config "name" (index . 0) "key" (index . 1)) }}
{{- if and $written (not (regexMatch (printf "[\"']%s(/[^\"']*)?[\"']$" (index . 2)) $written)) }}
{{- fail (printf "config: [%s] %s is not in %s: the rest of the pod's filesystem is read-only (statePath and runPath say where that is on the node)" (index . 0) (index . 1) (index . 2)) }}
{{- end }}
{{- end }}
{{- end }}
