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

{{/* What the hub is told to ask outside of its files: a list of value, address, host and port. */}}
{{- define "gpu-exporter.hubAsks" -}}
{{- $urls := dict "hub.prometheusUrl" .Values.hub.prometheusUrl "hub.alertmanagerUrl" .Values.hub.alertmanagerUrl
  "hub.config.control.url" (get (get .Values.hub.config "control" | default dict) "url") }}
{{- range .Values.hub.extraArgs }}
{{- $argument := tpl . $ }}
{{- if regexMatch "^--(prometheus|alertmanager)[.]url=" $argument }}{{ $_ := set $urls "hub.extraArgs" (regexReplaceAll "^[^=]*=" $argument "") }}{{ end }}
{{- end }}
{{- $asked := list }}
{{- range $value, $url := $urls }}
{{- with $url }}
{{- $usual := hasPrefix "https:" (toString .) | ternary ":443" ":80" }}
{{- $address := (toString . | urlParse).host }}
{{- $asked = append $asked (dict "value" $value "address" . "to" (regexMatch ":[0-9]+$" $address | ternary $address (print $address $usual))) }}
{{- end }}
{{- end }}
{{- range .Values.hub.nodes }}
{{- range .targets }}{{ $asked = append $asked (dict "value" "hub.nodes" "address" . "to" .) }}{{ end }}
{{- end }}
{{- range $asked }}
{{- $_ := set . "host" (regexReplaceAll ":[0-9]+$" .to "") }}
{{- $_ := set . "port" (regexFind "[0-9]+$" .to | int) }}
{{- end }}
{{- toYaml $asked }}
{{- end }}

{{/* "yes" where a rule's ports are of the kind that is asked: ports, port. */}}
{{- define "gpu-exporter.hasPort" -}}
{{- $port := int .port }}
{{- if not .ports }}yes{{ end }}
{{- range .ports | default list }}
{{- $first := get . "port" }}
{{- if eq (get . "protocol" | default "TCP") "TCP" }}
{{- if or (not $first) (kindIs "string" $first) }}yes
{{- else if and (ge $port (int $first)) (le $port (get . "endPort" | default $first | int)) }}yes
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
"yes" where one of a rule's peers may be the host that is asked: peers, host, namespace (the hub's). A name of one or two
labels, or with svc, is a Service's: its pods are found by selectors, anything else by networks.
*/}}
{{- define "gpu-exporter.hasPeer" -}}
{{- $labels := splitList "." .host }}
{{- $service := and (not (regexMatch "^[0-9.]+$|:" .host)) (or (le (len $labels) 2) (eq (index $labels 2) "svc")) }}
{{- $place := .namespace }}
{{- if gt (len $labels) 1 }}{{ $place = index $labels 1 }}{{ end }}
{{- $own := .namespace }}
{{- if not .peers }}yes{{ end }}
{{- range .peers | default list }}
{{- $spaces := get . "namespaceSelector" }}
{{- if get . "ipBlock" }}
{{- if or (not $service) (has .ipBlock.cidr (list "0.0.0.0/0" "::/0")) }}yes{{ end }}
{{- else if and $service (not (kindIs "map" $spaces)) }}
{{- if eq $place $own }}yes{{ end }}
{{- else if $service }}
{{- if eq (get (get $spaces "matchLabels" | default dict) "kubernetes.io/metadata.name" | default $place) $place }}yes{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the hub is told to ask, and its NetworkPolicy does not let it reach, as a list: value, address, port. */}}
{{- define "gpu-exporter.hubOutside" -}}
{{- $outside := list }}
{{- if contains "Egress" (include "gpu-exporter.hubPolicyTypes" .) }}
{{- $namespace := include "gpu-exporter.namespace" . }}
{{- $rules := .Values.hub.egress }}
{{- if .Values.hostNetwork }}{{ $rules = append $rules (dict "ports" (list (dict "port" .Values.port))) }}{{ end }}
{{- $near := printf "^(localhost|127[.].*|\\[::1\\]|%s(-[a-z0-9]+)?([.]%s([.]svc([.].*)?)?)?)$" (include "gpu-exporter.fullname" .) $namespace }}
{{- range $asked := include "gpu-exporter.hubAsks" . | fromYamlArray }}
{{- $open := regexMatch $near .host }}
{{- range $rules }}
{{- if include "gpu-exporter.hasPort" (dict "ports" (get . "ports") "port" $asked.port) | trim }}
{{- if include "gpu-exporter.hasPeer" (dict "peers" (get . "to") "host" $asked.host "namespace" $namespace) | trim }}{{ $open = true }}{{ end }}
{{- end }}
{{- end }}
{{- if not $open }}{{ $outside = append $outside (pick . "value" "address" "port") }}{{ end }}
{{- end }}
{{- end }}
{{- toYaml $outside }}
{{- end }}
