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

{{/* The probes ask the ports that the configuration opens, or the pods are never ready. */}}
{{- define "larder.checkPorts" -}}
{{- if not (regexMatch (printf "(?m)^\\s*listen\\s*=\\s*\"127\\.0\\.0\\.1:%d\"" (int .Values.ports.admin)) .Values.config) }}
{{- fail (printf "config: [admin] listen is not \"127.0.0.1:%d\", which ports.admin says" (int .Values.ports.admin)) }}
{{- end }}
{{- if not (regexMatch (printf "(?m)^\\s*metrics_listen\\s*=\\s*\"[^\"]*:%d\"" (int .Values.ports.metrics)) .Values.config) }}
{{- fail (printf "config: [admin] metrics_listen is not on port %d, which ports.metrics says" (int .Values.ports.metrics)) }}
{{- end }}
{{- end }}
