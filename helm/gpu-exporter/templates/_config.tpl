{{/*
What the exporter is told: its configuration file, its web configuration file, and what follows from them.
*/}}

{{/* The configuration as a map in YAML: `config`, and what this chart decides. */}}
{{- define "gpu-exporter.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $web := omit (get $config "web" | default dict) "allow" }}
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

{{/* config.web.allow: networks with commas. */}}
{{- define "gpu-exporter.allowed" -}}
{{- $allow := ((.Values.config | default dict).web | default dict).allow | default "" }}
{{- kindIs "slice" $allow | ternary (kindIs "slice" $allow | ternary $allow list | join ",") $allow }}
{{- end }}

{{/* "yes" where the kubelet, which asks from the node's address, may be refused: networks, a password, a certificate. */}}
{{- define "gpu-exporter.closed" -}}
{{- if or (include "gpu-exporter.allowed" .) .Values.webConfig.basicAuthUsers (ne .Values.webConfig.tls.clientAuthType "NoClientCert") }}yes{{ end }}
{{- range .Values.extraArgs }}{{ if hasPrefix "--web.allow" . }}yes{{ end }}{{ end }}
{{- if kindIs "map" .Values.env }}
{{- if hasKey .Values.env "GPU_EXPORTER_WEB_ALLOW" }}yes{{ end }}
{{- else }}
{{- range .Values.env }}{{ if eq .name "GPU_EXPORTER_WEB_ALLOW" }}yes{{ end }}{{ end }}
{{- end }}
{{- end }}

{{/*
What the exporter's NetworkPolicy restricts; empty where there is none. With auto, what other containers in the pod may
need is restricted only where it was told.
*/}}
{{- define "gpu-exporter.policyTypes" -}}
{{- $policy := .Values.networkPolicy }}
{{- $enabled := toString $policy.enabled }}
{{- if and (ne $enabled "false") (not .Values.hostNetwork) }}
{{- $both := or (eq $enabled "true") (not (or .Values.sidecars .Values.extraInitContainers)) }}
{{- $types := list }}
{{- if or $both $policy.namespaces $policy.from $policy.extraIngress }}{{ $types = append $types "Ingress" }}{{ end }}
{{- if or $both $policy.egress }}{{ $types = append $types "Egress" }}{{ end }}
{{- join ", " $types }}
{{- end }}
{{- end }}

{{/* The hub's. It may be asked by everybody until somebody is named, and its nodes may be anywhere. */}}
{{- define "gpu-exporter.hubPolicyTypes" -}}
{{- $policy := .Values.networkPolicy }}
{{- $enabled := toString $policy.enabled }}
{{- if and .Values.hub.enabled (ne $enabled "false") }}
{{- $types := list }}
{{- if or (eq $enabled "true") $policy.namespaces $policy.from }}{{ $types = append $types "Ingress" }}{{ end }}
{{- if or (eq $enabled "true") .Values.hub.egress }}{{ $types = append $types "Egress" }}{{ end }}
{{- join ", " $types }}
{{- end }}
{{- end }}

{{/* Who may connect to exporters and hub, as a list of peers; empty for everybody. */}}
{{- define "gpu-exporter.peers" -}}
{{- $peers := .Values.networkPolicy.from | default list }}
{{- with .Values.networkPolicy.namespaces }}
{{- $expression := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" . }}
{{- $peers = prepend $peers (dict "namespaceSelector" (dict "matchExpressions" (list $expression))) }}
{{- end }}
{{- with $peers }}{{ toYaml . }}{{ end }}
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
{{- $made := dict }}
{{- if $tls.enabled }}
{{- $server := dict "cert_file" (printf "/etc/gpu-exporter-tls/%s" $tls.certKey) "key_file" (printf "/etc/gpu-exporter-tls/%s" $tls.keyKey) "min_version" $tls.minVersion }}
{{- if ne $tls.clientAuthType "NoClientCert" }}
{{- $server = merge $server (dict "client_auth_type" $tls.clientAuthType "client_ca_file" (printf "/etc/gpu-exporter-tls/%s" $tls.caKey)) }}
{{- end }}
{{- $_ := set $made "tls_server_config" $server }}
{{- end }}
{{- with .Values.webConfig.basicAuthUsers }}{{ $_ := set $made "basic_auth_users" . }}{{ end }}
{{- toYaml $made }}
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
{{- $made := dict "checksum/config" (toYaml $config | sha256sum) }}
{{- with .Values.fake.scenario }}{{ $_ := set $made "checksum/scenario" (sha256sum .) }}{{ end }}
{{- toYaml $made }}
{{- end }}

{{/*
A probe: root, name, probe, path. The kubelet has neither password nor certificate, and asks from the node's address:
where that may be refused only the open port is looked at, unless a handler of one's own says more.
*/}}
{{- define "gpu-exporter.probe" -}}
{{- if .probe.enabled }}
{{- $made := deepCopy .probe.timing }}
{{- $port := .root.Values.service.portName }}
{{- $handler := include "gpu-exporter.present" .probe.handler | fromYaml }}
{{- if $handler }}
{{- $made = mergeOverwrite $made $handler }}
{{- else if include "gpu-exporter.closed" .root }}
{{- $_ := set $made "tcpSocket" (dict "port" $port) }}
{{- else }}
{{- $get := dict "path" .path "port" $port "scheme" (include "gpu-exporter.scheme" .root | upper) }}
{{- with .probe.httpHeaders }}{{ $_ := set $get "httpHeaders" . }}{{ end }}
{{- $_ := set $made "httpGet" $get }}
{{- end }}
{{- toYaml (dict .name $made) }}
{{- end }}
{{- end }}
