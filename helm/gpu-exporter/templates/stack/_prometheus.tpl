{{/*
prometheus.yml of the stack: deploy/prometheus/prometheus.yml, with the release's pods in the place of nodes.yml.
*/}}

{{/* A map of the operator's names (sourceLabels) with Prometheus's (source_labels). */}}
{{- define "gpu-exporter.snake" -}}
{{- $made := dict }}
{{- range $key, $value := . }}{{ $_ := set $made (snakecase $key) $value }}{{ end }}
{{- toYaml $made }}
{{- end }}

{{/* A duration as a whole number of milliseconds. */}}
{{- define "gpu-exporter.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 "y" 31536000000 }}
{{- $sum := 0 }}
{{- range regexFindAll "[0-9]+(ms|[smhdwy])" (toString .) -1 }}
{{- $sum = add $sum (mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[a-z]+$" .) | int64)) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* How often and how long stack.prometheus scrapes: interval, timeout. A timeout is never longer than its interval. */}}
{{- define "gpu-exporter.scrapeTimes" -}}
{{- $file := .Files.Get "files/prometheus.yml" | fromYaml }}
{{- $own := get .Values.stack.prometheus.extraConfig "global" | default dict }}
{{- $global := get $own "scrape_interval" | default $file.global.scrape_interval }}
{{- $interval := .Values.scrape.interval | default $global }}
{{- $timeout := .Values.scrape.timeout }}
{{- if not $timeout }}
{{- $timeout = "10s" }}
{{- range $file.scrape_configs }}{{ if eq .job_name "gpu-exporter" }}{{ $timeout = get . "scrape_timeout" | default $timeout }}{{ end }}{{ end }}
{{- if gt (include "gpu-exporter.milliseconds" $timeout | int64) (include "gpu-exporter.milliseconds" $interval | int64) }}{{ $timeout = $interval }}{{ end }}
{{- end }}
{{- toYaml (dict "interval" $interval "timeout" $timeout "global" $global) }}
{{- end }}

{{/* What `scrape` says, in Prometheus's own words. */}}
{{- define "gpu-exporter.scrapeJob" -}}
{{- $scrape := .Values.scrape }}
{{- $times := include "gpu-exporter.scrapeTimes" . | fromYaml }}
{{- $made := dict "metrics_path" (include "gpu-exporter.path" .) "scheme" (include "gpu-exporter.scheme" .) "scrape_timeout" $times.timeout
  "honor_labels" $scrape.honorLabels "honor_timestamps" $scrape.honorTimestamps }}
{{- with $scrape.interval }}{{ $_ := set $made "scrape_interval" . }}{{ end }}
{{- range $name := list "sampleLimit" "targetLimit" "labelLimit" "labelNameLengthLimit" "labelValueLengthLimit" "keepDroppedTargets" }}
{{- with get $scrape $name }}{{ $_ := set $made (snakecase $name) (int64 .) }}{{ end }}
{{- end }}
{{- range $from, $to := dict "proxyUrl" "proxy_url" "params" "params" "scrapeProtocols" "scrape_protocols" }}
{{- with get $scrape $from }}{{ $_ := set $made $to . }}{{ end }}
{{- end }}
{{- range $from, $to := dict "enableHttp2" "enable_http2" "followRedirects" "follow_redirects" }}
{{- if kindIs "bool" (get $scrape $from) }}{{ $_ := set $made $to (get $scrape $from) }}{{ end }}
{{- end }}
{{- if $scrape.basicAuth }}
{{- $_ := set $made "basic_auth" (dict "username_file" "/etc/prometheus-scrape/username" "password_file" "/etc/prometheus-scrape/password") }}
{{- end }}
{{- if $scrape.authorization }}
{{- $_ := set $made "authorization" (dict "type" (get $scrape.authorization "type" | default "Bearer") "credentials_file" "/etc/prometheus-scrape/credentials") }}
{{- end }}
{{- with include "gpu-exporter.tlsConfig" . | fromYaml }}
{{- $from := . }}
{{- $tls := dict }}
{{- if .ca }}{{ $_ := set $tls "ca_file" "/etc/prometheus-scrape/ca" }}{{ end }}
{{- if .cert }}{{ $_ := merge $tls (dict "cert_file" "/etc/prometheus-scrape/cert" "key_file" "/etc/prometheus-scrape/key") }}{{ end }}
{{- range $key := list "serverName" "insecureSkipVerify" "minVersion" "maxVersion" }}
{{- with get $from $key }}{{ $_ := set $tls (snakecase $key) . }}{{ end }}
{{- end }}
{{- $_ := set $made "tls_config" $tls }}
{{- end }}
{{- with $scrape.metricRelabelings }}
{{- $relabel := list }}
{{- range . }}{{ $relabel = append $relabel (include "gpu-exporter.snake" . | fromYaml) }}{{ end }}
{{- $_ := set $made "metric_relabel_configs" $relabel }}
{{- end }}
{{- toYaml $made }}
{{- end }}

{{/* The Secrets and ConfigMaps that the scrape needs, as sources of one volume. */}}
{{- define "gpu-exporter.scrapeSources" -}}
{{- $tls := include "gpu-exporter.tlsConfig" . | fromYaml }}
{{- $auth := .Values.scrape.basicAuth }}
{{- $made := list }}
{{- range $path, $from := dict "username" (get $auth "username") "password" (get $auth "password") "credentials" (get .Values.scrape.authorization "credentials")
  "ca" (dig "ca" "secret" "" $tls) "cert" (dig "cert" "secret" "" $tls) "key" (get $tls "keySecret") }}
{{- if $from }}
{{- $made = append $made (dict "secret" (dict "name" $from.name "items" (list (dict "key" $from.key "path" $path)))) }}
{{- end }}
{{- end }}
{{- range $path := list "ca" "cert" }}
{{- with dig $path "configMap" "" $tls }}
{{- $made = append $made (dict "configMap" (dict "name" .name "items" (list (dict "key" .key "path" $path)))) }}
{{- end }}
{{- end }}
{{- toYaml $made }}
{{- end }}

{{/* What the targets that are pods are called, in Prometheus's words. */}}
{{- define "gpu-exporter.podRelabelings" -}}
{{- $made := list (dict "source_labels" (list "__meta_kubernetes_pod_container_port_name") "regex" .Values.service.portName "action" "keep") }}
{{- if ne (toString .Values.scrape.filterRunning) "false" }}
{{- $made = append $made (dict "source_labels" (list "__meta_kubernetes_pod_phase") "regex" "Failed|Succeeded" "action" "drop") }}
{{- end }}
{{- range .Values.scrape.podTargetLabels }}
{{- $label := regexReplaceAll "[^a-zA-Z0-9_]" . "_" }}
{{- $made = append $made (dict "source_labels" (list (printf "__meta_kubernetes_pod_label_%s" $label)) "regex" "(.+)" "target_label" $label) }}
{{- end }}
{{- range include "gpu-exporter.relabelings" . | fromYamlArray }}
{{- $made = append $made (include "gpu-exporter.snake" . | fromYaml) }}
{{- end }}
{{- toYaml $made }}
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
{{- $_ := set $job "relabel_configs" (include "gpu-exporter.podRelabelings" $ | fromYamlArray) }}
{{- $jobs = append $jobs $job }}
{{- if $stack.prometheus.nodes }}
{{- $more := dict "job_name" "gpu-exporter-nodes" "file_sd_configs" (list (dict "files" (list "nodes.yml"))) "relabel_configs" (list (dict "target_label" "job" "replacement" "gpu-exporter")) }}
{{- /* Machines outside have certificates with their own names. */}}
{{- if and (hasKey $nodes "tls_config") (not (get $.Values.scrape.tlsConfig "serverName")) }}
{{- $_ := set $nodes "tls_config" (omit $nodes.tls_config "server_name") }}
{{- end }}
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
{{- $_ := set $file "scrape_configs" (include "gpu-exporter.joined" (dict "items" (concat $jobs $stack.prometheus.extraScrapeConfigs) "key" "job_name") | fromYamlArray) }}
{{- $own := deepCopy $stack.prometheus.extraConfig }}
{{- with get $own "rule_files" }}{{ $_ := set $own "rule_files" (concat $file.rule_files . | uniq) }}{{ end }}
{{- toYaml (mergeOverwrite $file $own) }}
{{- end }}

{{- define "gpu-exporter.podDiscovery" -}}
- role: pod
  namespaces:
    names: [{{ include "gpu-exporter.namespace" . | quote }}]
  selectors:
    - role: pod
      label: {{ printf "app.kubernetes.io/name=%s,app.kubernetes.io/instance=%s,app.kubernetes.io/component=exporter" (include "gpu-exporter.selectedName" .) .Release.Name | quote }}
{{- end }}

{{/* alertmanager.yml of the stack: the file, with stack.alertmanager.extraConfig in it. */}}
{{- define "gpu-exporter.stackAlertmanagerFile" -}}
{{- $file := include "gpu-exporter.alertmanagerFile" . | fromYaml }}
{{- $own := deepCopy .Values.stack.alertmanager.extraConfig }}
{{- range $key := list "receivers" "time_intervals" }}
{{- with get $own $key }}
{{- $_ := set $own $key (include "gpu-exporter.joined" (dict "items" (concat (get $file $key | default list) .) "key" "name") | fromYamlArray) }}
{{- end }}
{{- end }}
{{- range $key := list "inhibit_rules" "templates" }}
{{- with get $own $key }}{{ $_ := set $own $key (concat (get $file $key | default list) .) }}{{ end }}
{{- end }}
{{- /* One's own routes come first: what they take, the others do not see unless they say `continue`. */}}
{{- with dig "route" "routes" list $own }}
{{- $_ := set $own.route "routes" (concat . $file.route.routes) }}
{{- end }}
{{- toYaml (mergeOverwrite $file $own) }}
{{- end }}
