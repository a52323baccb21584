{{/*
prometheus.yml of the stack: deploy/prometheus/prometheus.yml, with the release's pods in the place of nodes.yml.
*/}}

{{/* A map of the operator's names (sourceLabels) with Prometheus's (source_labels). */}}
{{- define "gpu-exporter.snake" -}}
{{- $made := dict }}
{{- range $key, $value := . }}{{ $_ := set $made (snakecase $key) $value }}{{ end }}
{{- toYaml $made }}
{{- end }}

{{/* What `scrape` says, in Prometheus's own words. */}}
{{- define "gpu-exporter.scrapeJob" -}}
{{- $scrape := .Values.scrape }}
metrics_path: {{ include "gpu-exporter.path" . }}
scheme: {{ include "gpu-exporter.scheme" . }}
{{- with $scrape.interval }}
scrape_interval: {{ . }}
{{- end }}
{{- with $scrape.timeout }}
scrape_timeout: {{ . }}
{{- end }}
{{- range $name := list "sampleLimit" "targetLimit" "labelLimit" "labelNameLengthLimit" "labelValueLengthLimit" "keepDroppedTargets" }}
{{- with get $scrape $name }}
{{ snakecase $name }}: {{ int64 . }}
{{- end }}
{{- end }}
{{- with $scrape.proxyUrl }}
proxy_url: {{ . }}
{{- end }}
{{- if $scrape.basicAuth }}
basic_auth:
  username_file: /etc/prometheus-scrape/username
  password_file: /etc/prometheus-scrape/password
{{- end }}
{{- with include "gpu-exporter.tlsConfig" . | fromYaml }}
tls_config:
  {{- if .ca }}
  ca_file: /etc/prometheus-scrape/ca
  {{- end }}
  {{- if .cert }}
  cert_file: /etc/prometheus-scrape/cert
  key_file: /etc/prometheus-scrape/key
  {{- end }}
  {{- with .serverName }}
  server_name: {{ . }}
  {{- end }}
  {{- if .insecureSkipVerify }}
  insecure_skip_verify: true
  {{- end }}
{{- end }}
{{- with $scrape.metricRelabelings }}
metric_relabel_configs:
  {{- range . }}
  - {{ include "gpu-exporter.snake" . | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The Secrets that the scrape needs, as sources of one volume. */}}
{{- define "gpu-exporter.scrapeSources" -}}
{{- $tls := include "gpu-exporter.tlsConfig" . | fromYaml }}
{{- $auth := .Values.scrape.basicAuth }}
{{- range $path, $from := dict "username" (get $auth "username") "password" (get $auth "password")
  "ca" (dig "ca" "secret" "" $tls) "cert" (dig "cert" "secret" "" $tls) "key" (get $tls "keySecret") }}
{{- if $from }}
- secret: {name: {{ $from.name }}, items: [{key: {{ $from.key }}, path: {{ $path }}}]}
{{- end }}
{{- end }}
{{- with dig "ca" "configMap" "" $tls }}
- configMap: {name: {{ .name }}, items: [{key: {{ .key }}, path: ca}]}
{{- end }}
{{- end }}

{{- define "gpu-exporter.prometheusFile" -}}
{{- $stack := .Values.stack }}
{{- $file := .Files.Get "files/prometheus.yml" | fromYaml }}
{{- with $stack.prometheus.externalLabels }}{{ $_ := set $file.global "external_labels" . }}{{ end }}
{{- $alertmanagers := list (printf "%s-alertmanager:9093" (include "gpu-exporter.fullname" .)) }}
{{- if $stack.alertmanager.enabled }}
{{- $_ := set $file "alerting" (dict "alertmanagers" (list (dict "static_configs" (list (dict "targets" $alertmanagers))))) }}
{{- else }}
{{- $_ := unset $file "alerting" }}
{{- end }}
{{- $_ := set $file "rule_files" (list "rules.yml") }}
{{- $jobs := list }}
{{- range $job := $file.scrape_configs }}
{{- if eq $job.job_name "gpu-exporter" }}
{{- $_ := unset $job "file_sd_configs" }}
{{- $job = mergeOverwrite $job (include "gpu-exporter.scrapeJob" $ | fromYaml) }}
{{- $nodes := deepCopy $job }}
{{- $_ := set $job "kubernetes_sd_configs" (include "gpu-exporter.podDiscovery" $ | fromYamlArray) }}
{{- $relabel := list
  (dict "source_labels" (list "__meta_kubernetes_pod_container_port_name") "regex" $.Values.service.portName "action" "keep")
  (dict "source_labels" (list "__meta_kubernetes_pod_phase") "regex" "Failed|Succeeded" "action" "drop") }}
{{- range include "gpu-exporter.relabelings" $ | fromYamlArray }}
{{- $relabel = append $relabel (include "gpu-exporter.snake" . | fromYaml) }}
{{- end }}
{{- $_ := set $job "relabel_configs" $relabel }}
{{- $jobs = append $jobs $job }}
{{- if $stack.prometheus.nodes }}
{{- $more := dict "job_name" "gpu-exporter-nodes" "file_sd_configs" (list (dict "files" (list "nodes.yml"))) "relabel_configs" (list (dict "target_label" "job" "replacement" "gpu-exporter")) }}
{{- $jobs = append $jobs (mergeOverwrite $nodes $more) }}
{{- end }}
{{- else if eq $job.job_name "alertmanager" }}
{{- if $stack.alertmanager.enabled }}
{{- $jobs = append $jobs (set $job "static_configs" (list (dict "targets" $alertmanagers))) }}
{{- end }}
{{- else }}
{{- $jobs = append $jobs $job }}
{{- end }}
{{- end }}
{{- $_ := set $file "scrape_configs" (concat $jobs $stack.prometheus.extraScrapeConfigs) }}
{{- toYaml (mergeOverwrite $file $stack.prometheus.extraConfig) }}
{{- end }}

{{- define "gpu-exporter.podDiscovery" -}}
- role: pod
  namespaces:
    names: [{{ include "gpu-exporter.namespace" . }}]
  selectors:
    - role: pod
      label: app.kubernetes.io/name={{ include "gpu-exporter.name" . }},app.kubernetes.io/instance={{ .Release.Name }},app.kubernetes.io/component=exporter
{{- end }}
