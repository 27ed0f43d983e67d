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

{{/* A duration as the configuration has it ("5m", "1min 30s"), in seconds, rounded up. */}}
{{- define "larder.seconds" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+ *[a-zA-Z]+" . -1 -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[a-zA-Z]+$" . -}}
{{- if regexMatch "^(h|hr|hrs|hour|hours)$" $unit -}}{{- $sum = add $sum (mul $number 3600) -}}
{{- else if regexMatch "^(m|min|mins|minute|minutes)$" $unit -}}{{- $sum = add $sum (mul $number 60) -}}
{{- else if regexMatch "^(s|sec|secs|second|seconds)$" $unit -}}{{- $sum = add $sum $number -}}
{{- else -}}{{- $sum = add $sum (div (add $number 999) 1000) -}}{{- end -}}
{{- end -}}
{{- $sum -}}
{{- end }}

{{/* The probes ask the ports that the configuration opens, or the pods are never ready; and what is written elsewhere than
into the pod's volumes is written to a root that is read-only. A stop that waits longer than kubelet is no clean one. */}}
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
{{- $drain := include "larder.key" (dict "config" $config "name" "server" "key" "drain_wait") | default "\"30s\"" }}
{{- $grace := .Values.terminationGracePeriodSeconds | default 45 | int }}
{{- if lt $grace (add 15 (include "larder.seconds" $drain | int) | int) }}
{{- fail (printf "config: [server] drain_wait = %s needs terminationGracePeriodSeconds of 15 more seconds at least; it is %d" ($drain | regexFind "[\"'].*[\"']") $grace) }}
{{- end }}
{{- range list (list "server" "state" "/var/lib/larder") (list "store" "path" "/var/lib/larder") (list "admin" "socket" "/run/larder") }}
{{- $written := include "larder.key" (dict "config" $config "name" (index . 0) "key" (index . 1)) }}
{{- if and $written (not (regexMatch (printf "[\"']%s(/[^\"']*)?[\"']$" (index . 2)) $written)) }}
{{- fail (printf "config: [%s] %s is not in %s: the rest of the pod's filesystem is read-only (statePath and runPath say where that is on the node)" (index . 0) (index . 1) (index . 2)) }}
{{- end }}
{{- end }}
{{- end }}
