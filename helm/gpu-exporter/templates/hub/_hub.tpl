{{/*
What the hub is told: hub.yml and nodes.yml. It asks the exporters as the monitors do, with the same Secrets.
*/}}

{{- define "gpu-exporter.hubFiles" -}}
{{- $scrape := .Values.scrape }}
{{- $folder := "/etc/gpu-exporter-hub-scrape" }}
{{- $name := printf "%s-exporters.%s.svc:%d" (include "gpu-exporter.fullname" .) (include "gpu-exporter.namespace" .) (int .Values.port) }}
{{- $http := dict }}
{{- if $scrape.basicAuth }}
{{- $_ := set $http "basic_auth" (dict "username_file" (printf "%s/username" $folder) "password_file" (printf "%s/password" $folder)) }}
{{- end }}
{{- if $scrape.authorization }}
{{- $_ := set $http "authorization" (dict "type" (get $scrape.authorization "type" | default "Bearer") "credentials_file" (printf "%s/credentials" $folder)) }}
{{- end }}
{{- with include "gpu-exporter.tlsConfig" . | fromYaml }}
{{- $tls := dict }}
{{- if .ca }}{{ $_ := set $tls "ca_file" (printf "%s/ca" $folder) }}{{ end }}
{{- if .cert }}{{ $_ := merge $tls (dict "cert_file" (printf "%s/cert" $folder) "key_file" (printf "%s/key" $folder)) }}{{ end }}
{{- with .serverName }}{{ $_ := set $tls "server_name" . }}{{ end }}
{{- if .insecureSkipVerify }}{{ $_ := set $tls "insecure_skip_verify" true }}{{ end }}
{{- $_ := set $http "tls_config" $tls }}
{{- end }}
{{- $file := deepCopy .Values.hub.config }}
{{- $_ := set $file "discovery" (dict "dns" (list $name)) }}
{{- $_ := set $file "scheme" (include "gpu-exporter.scheme" .) }}
{{- if $http }}{{ $_ := set $file "http_config" $http }}{{ end }}
{{- toYaml (dict "hub.yml" (toYaml $file) "nodes.yml" (toYaml .Values.hub.nodes)) }}
{{- end }}
