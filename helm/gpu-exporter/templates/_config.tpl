{{/*
What the exporter is told: its configuration file, its web configuration file, and what follows from them.
*/}}

{{/* The configuration as a map in YAML: `config`, and what this chart decides. */}}
{{- define "gpu-exporter.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $web := get $config "web" | default dict }}
{{- $_ := set $web "listen_address" (printf ":%d" (int .Values.port)) }}
{{- $_ := set $config "web" $web }}
{{- if .Values.fake.enabled }}
{{- $_ := set $config "source" "fake" }}
{{- $fake := dict "gpus" (int .Values.fake.gpus) "model" .Values.fake.model "seed" (int .Values.fake.seed) "owners" .Values.fake.owners }}
{{- if .Values.fake.scenario }}{{ $_ := set $fake "scenario" "/etc/gpu-exporter/scenario.yml" }}{{ end }}
{{- $_ := set $config "fake" $fake }}
{{- else }}
{{- $_ := set $config "processes" (mergeOverwrite (get $config "processes" | default dict) (dict "enabled" .Values.processes.enabled)) }}
{{- $owners := dict "procfs" .Values.processes.enabled "kubernetes" .Values.owners.kubernetes.enabled }}
{{- if .Values.owners.slurm.enabled }}{{ $_ := set $owners "slurm_directory" .Values.owners.slurm.directory }}{{ end }}
{{- $_ := set $config "owners" (mergeOverwrite (get $config "owners" | default dict) $owners) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- define "gpu-exporter.path" -}}
{{- dig "web" "telemetry_path" "" (.Values.config | merge dict) | default "/metrics" }}
{{- end }}

{{- define "gpu-exporter.hasWebConfig" -}}
{{- if or .Values.webConfig.existingSecret .Values.webConfig.tls.enabled .Values.webConfig.basicAuthUsers }}yes{{ end }}
{{- end }}

{{- define "gpu-exporter.scheme" -}}
{{- .Values.webConfig.tls.enabled | ternary "https" "http" }}
{{- end }}

{{/* The web configuration file in exporter-toolkit's format. */}}
{{- define "gpu-exporter.webConfig" -}}
{{- $tls := .Values.webConfig.tls }}
{{- if $tls.enabled }}
tls_server_config:
  cert_file: /etc/gpu-exporter-tls/{{ $tls.certKey }}
  key_file: /etc/gpu-exporter-tls/{{ $tls.keyKey }}
  min_version: {{ $tls.minVersion }}
  {{- if ne $tls.clientAuthType "NoClientCert" }}
  client_auth_type: {{ $tls.clientAuthType }}
  client_ca_file: /etc/gpu-exporter-tls/{{ $tls.caKey }}
  {{- end }}
{{- end }}
{{- with .Values.webConfig.basicAuthUsers }}
basic_auth_users:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What a pod must be restarted for. */}}
{{- define "gpu-exporter.checksums" -}}
{{- $config := include "gpu-exporter.config" . | fromYaml }}
{{- if not .Values.restartOnConfigChange }}
{{- range .Files.Get "files/reloaded.json" | fromJsonArray }}
{{- $keys := splitList "." . }}
{{- $place := $config }}
{{- range initial $keys }}{{ $place = get $place . | default dict }}{{ end }}
{{- $_ := unset $place (last $keys) }}
{{- end }}
{{- range $name, $section := $config }}{{ if not $section }}{{ $_ := unset $config $name }}{{ end }}{{ end }}
{{- end }}
checksum/config: {{ toYaml $config | sha256sum }}
{{- end }}

{{/*
A probe: root, name, probe, path. The kubelet has neither password nor certificate: behind them only the open port is
looked at, unless a handler of one's own says more.
*/}}
{{- define "gpu-exporter.probe" -}}
{{- if .probe.enabled }}
{{ .name }}:
  {{- if .probe.handler }}
  {{- toYaml .probe.handler | nindent 2 }}
  {{- else if or .root.Values.webConfig.basicAuthUsers (ne .root.Values.webConfig.tls.clientAuthType "NoClientCert") }}
  tcpSocket: {port: {{ .root.Values.service.portName }}}
  {{- else }}
  httpGet:
    path: {{ .path }}
    port: {{ .root.Values.service.portName }}
    scheme: {{ include "gpu-exporter.scheme" .root | upper }}
  {{- end }}
  {{- toYaml .probe.timing | nindent 2 }}
{{- end }}
{{- end }}
