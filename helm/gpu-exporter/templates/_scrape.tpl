{{/*
The scrape, as ServiceMonitor and PodMonitor both have it.
*/}}

{{- define "gpu-exporter.limits" -}}
{{- range $name := list "sampleLimit" "targetLimit" "labelLimit" "labelNameLengthLimit" "labelValueLengthLimit" "keepDroppedTargets" }}
{{- with get $.Values.scrape $name }}
{{ $name }}: {{ int64 . }}
{{- end }}
{{- end }}
{{- with .Values.scrape.podTargetLabels }}
podTargetLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.scrape.attachMetadata }}
attachMetadata:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.scrape.scrapeClass }}
scrapeClass: {{ . | quote }}
{{- end }}
{{- with .Values.scrape.scrapeProtocols }}
scrapeProtocols:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Rules and dashboards count on the job's name; the node is the machine, whichever pod runs there. The label service keeps
two releases on one node apart (a PodMonitor has none of its own).
*/}}
{{- define "gpu-exporter.relabelings" -}}
- {targetLabel: job, replacement: gpu-exporter, action: replace}
{{- if .Values.scrape.instanceIsNode }}
- {sourceLabels: [__meta_kubernetes_pod_node_name], regex: (.+), targetLabel: instance, action: replace}
{{- end }}
- {targetLabel: service, replacement: {{ include "gpu-exporter.fullname" . | quote }}, action: replace}
{{- if .Values.scrape.dropOwnLabels }}
- {regex: namespace|pod|container, action: labeldrop}
{{- end }}
{{- with .Values.scrape.relabelings }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.tlsConfig" -}}
{{- if .Values.scrape.tlsConfig }}
{{- toYaml .Values.scrape.tlsConfig }}
{{- else if .Values.webConfig.tls.enabled -}}
{{- with .Values.webConfig.tls.caKey }}
ca:
  secret: {name: {{ $.Values.webConfig.tls.secretName | quote }}, key: {{ . | quote }}}
{{- end }}
serverName: {{ printf "%s.%s.svc" (include "gpu-exporter.serviceName" .) (include "gpu-exporter.namespace" .) | quote }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.endpoint" -}}
{{- $scrape := .Values.scrape }}
port: {{ .Values.service.portName | quote }}
path: {{ include "gpu-exporter.path" . | quote }}
scheme: {{ include "gpu-exporter.scheme" . }}
{{- with $scrape.interval }}
interval: {{ . }}
{{- end }}
{{- with $scrape.timeout }}
scrapeTimeout: {{ . }}
{{- end }}
honorLabels: {{ $scrape.honorLabels }}
honorTimestamps: {{ $scrape.honorTimestamps }}
{{- range $name := list "basicAuth" "authorization" "oauth2" "params" }}
{{- with get $scrape $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with include "gpu-exporter.tlsConfig" . }}
tlsConfig:
  {{- . | nindent 2 }}
{{- end }}
{{- with $scrape.proxyUrl }}
proxyUrl: {{ . | quote }}
{{- end }}
{{- range $name := list "enableHttp2" "followRedirects" "filterRunning" }}
{{- if kindIs "bool" (get $scrape $name) }}
{{ $name }}: {{ get $scrape $name }}
{{- end }}
{{- end }}
relabelings:
  {{- include "gpu-exporter.relabelings" . | nindent 2 }}
{{- with $scrape.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
