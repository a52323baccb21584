{{/*
Alertmanager's configuration: deploy/alertmanager with `mail` in the places that are meant for a site's own words.
*/}}

{{/* Who is mailed by a receiver. */}}
{{- define "gpu-exporter.mailTo" -}}
{{- $to := .root.Values.mail.to }}
{{- $team := $to.team | default $to.oncall }}
{{- get (dict "oncall" $to.oncall "team" $team "morning" $team "digest" ($to.digest | default $team) "heartbeat" ($to.heartbeat | default $team)) .receiver }}
{{- end }}

{{/* templates/owners.tmpl: whom the holder of an idle GPU is. */}}
{{- define "gpu-exporter.ownersTemplate" -}}
{{- $mail := .Values.mail }}
{{- if $mail.owners.template }}
{{- $mail.owners.template }}
{{- else }}
{{- $text := .Files.Get "files/alertmanager/templates/owners.tmpl" }}
{{- $fallback := $mail.owners.fallback | default (include "gpu-exporter.mailTo" (dict "root" . "receiver" "team")) }}
{{- range $name, $value := dict "domain" $mail.owners.domain "fallback" $fallback }}
{{- if $value }}
{{- $define := printf "{{ define \"gpu.owner.%s\" }}" $name }}
{{- $text = regexReplaceAllLiteral (printf "%s[^{]*\\{\\{ end \\}\\}" (regexQuoteMeta $define)) $text (printf "%s%s{{ end }}" $define $value) }}
{{- end }}
{{- end }}
{{- $text }}
{{- end }}
{{- end }}

{{/* alertmanager.yml. Without a mail server its receivers are empty: alerts are shown and nobody is mailed. */}}
{{- define "gpu-exporter.alertmanagerFile" -}}
{{- $mail := .Values.mail }}
{{- $text := .Files.Get "files/alertmanager/alertmanager.yml" }}
{{- /* Mails to holders wait in comments for a domain. */}}
{{- if or $mail.owners.domain $mail.owners.template }}{{ $text = $text | replace "#holders: " "" }}{{ end }}
{{- /* Office hours are the switch of warnings: who writes them wants them. */}}
{{- if hasKey $mail.timeIntervals "office-hours" }}{{ $text = $text | replace "#: active_time_intervals: [office-hours]" "active_time_intervals: [office-hours]" }}{{ end }}
{{- $file := $text | fromYaml }}
{{- $_ := set $file "templates" (list "/etc/alertmanager/templates/*.tmpl") }}
{{- $global := $file.global }}
{{- range $key := list "smtp_smarthost" "smtp_from" "smtp_auth_username" "smtp_auth_password_file" "smtp_require_tls" }}
{{- $_ := unset $global $key }}
{{- end }}
{{- if $mail.smarthost }}
{{- $_ := merge $global (dict "smtp_smarthost" $mail.smarthost "smtp_from" $mail.from "smtp_require_tls" $mail.requireTls) }}
{{- if $mail.username }}
{{- $_ := merge $global (dict "smtp_auth_username" $mail.username "smtp_auth_password_file" "/etc/alertmanager-mail/password") }}
{{- end }}
{{- end }}
{{- $receivers := list }}
{{- range $receiver := $file.receivers }}
{{- range $email := get $receiver "email_configs" | default list }}
{{- with include "gpu-exporter.mailTo" (dict "root" $ "receiver" $receiver.name) }}{{ $_ := set $email "to" . }}{{ end }}
{{- end }}
{{- if not $mail.smarthost }}{{ $_ := unset $receiver "email_configs" }}{{ end }}
{{- $receivers = append $receivers $receiver }}
{{- end }}
{{- $_ := set $file "receivers" $receivers }}
{{- $names := list }}
{{- range $interval := $file.time_intervals }}
{{- $names = append $names $interval.name }}
{{- with get $mail.timeIntervals $interval.name }}{{ $_ := set $interval "time_intervals" . }}{{ end }}
{{- end }}
{{- range $name := keys $mail.timeIntervals | sortAlpha }}
{{- if not (has $name $names) }}
{{- fail (printf "mail.timeIntervals: there are no times '%s'; there are %s." $name (join ", " $names)) }}
{{- end }}
{{- end }}
{{- toYaml $file }}
{{- end }}

{{/* ---- the same as an AlertmanagerConfig ---- */}}

{{/* A list of matchers as text ('gpu=~".+"') into a list of maps. */}}
{{- define "gpu-exporter.matchers" -}}
{{- range . }}
{{- $name := regexFind "^[a-zA-Z_][a-zA-Z0-9_]*" . }}
{{- $type := regexFind "=~|!~|!=|=" . }}
- name: {{ $name | quote }}
  matchType: {{ $type | quote }}
  value: {{ printf "[%s]" (trimPrefix (printf "%s%s" $name $type) .) | fromJsonArray | first | quote }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.route" -}}
{{- range $from, $to := dict "receiver" "receiver" "group_by" "groupBy" "group_wait" "groupWait" "group_interval" "groupInterval"
  "repeat_interval" "repeatInterval" "continue" "continue" "active_time_intervals" "activeTimeIntervals" "mute_time_intervals" "muteTimeIntervals" }}
{{- if hasKey $ $from }}
{{ $to }}: {{ get $ $from | toJson }}
{{- end }}
{{- end }}
{{- with .matchers }}
matchers:
  {{- include "gpu-exporter.matchers" . | trim | nindent 2 }}
{{- end }}
{{- with .routes }}
routes:
  {{- range . }}
  - {{ include "gpu-exporter.route" . | trim | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
A field of a mail with the templates it calls before it, and what these call; all of them in every field would be more than
an object of Kubernetes may have. Nothing between the definitions may be printed: their leading dashes eat the line ends.
*/}}
{{- define "gpu-exporter.inlined" -}}
{{- if and .root.Values.alertmanagerConfig.inlineTemplates (contains "{{ template" .text) }}
{{- $all := printf "%s\n%s" (.root.Files.Get "files/alertmanager/templates/email.tmpl") (include "gpu-exporter.ownersTemplate" .root) }}
{{- $all = regexReplaceAllLiteral "(?s)\\{\\{/\\*.*?\\*/\\}\\}" $all "" }}
{{- $parts := splitList "\n{{ define \"" (printf "\n%s" $all) }}
{{- $needed := "" }}
{{- $text := .text }}
{{- range until 8 }}
{{- $wanted := printf "%s%s" $text $needed }}
{{- $needed = "" }}
{{- range $part := rest $parts }}
{{- if contains (printf "template \"%s\"" (regexFind "^[^\"]*" $part)) $wanted }}{{ $needed = printf "%s{{- define \"%s" $needed (trim $part) }}{{ end }}
{{- end }}
{{- end }}
{{- printf "%s{{- \"\" -}}%s" $needed .text }}
{{- else }}
{{- .text }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.alertmanagerConfig" -}}
{{- $root := . }}
{{- $mail := .Values.mail }}
{{- $file := include "gpu-exporter.alertmanagerFile" . | fromYaml }}
{{- /* An Alertmanager that is not this release's has alerts of everybody: only those with our rules' label are ours. */}}
{{- $_ := set $file.route "matchers" (list "bundle=\"gpu-exporter\"") }}
{{- $receivers := list }}
{{- range $receiver := $file.receivers }}
{{- $emails := list }}
{{- range $from := get $receiver "email_configs" | default list }}
{{- $headers := list }}
{{- range $key, $value := get $from "headers" | default dict }}
{{- $headers = append $headers (dict "key" $key "value" (include "gpu-exporter.inlined" (dict "root" $root "text" $value))) }}
{{- end }}
{{- $email := dict "to" (include "gpu-exporter.inlined" (dict "root" $root "text" $from.to)) "from" $mail.from "smarthost" $mail.smarthost "requireTLS" $mail.requireTls "sendResolved" $from.send_resolved "headers" $headers }}
{{- range $key := list "html" "text" }}
{{- if hasKey $from $key }}{{ $_ := set $email $key (include "gpu-exporter.inlined" (dict "root" $root "text" (get $from $key))) }}{{ end }}
{{- end }}
{{- if $mail.username }}
{{- $_ := merge $email (dict "authUsername" $mail.username "authPassword" (dict "name" $mail.passwordSecret.name "key" $mail.passwordSecret.key)) }}
{{- end }}
{{- $emails = append $emails $email }}
{{- end }}
{{- $receivers = append $receivers (dict "name" $receiver.name "emailConfigs" $emails) }}
{{- end }}
route:
  {{- include "gpu-exporter.route" $file.route | trim | nindent 2 }}
inhibitRules:
  {{- range $file.inhibit_rules }}
  - sourceMatch:
      {{- include "gpu-exporter.matchers" .source_matchers | trim | nindent 6 }}
    targetMatch:
      {{- include "gpu-exporter.matchers" .target_matchers | trim | nindent 6 }}
    equal: {{ .equal | toJson }}
  {{- end }}
{{- /* An AlertmanagerConfig's times are UTC: it has no place for a time zone. */}}
muteTimeIntervals:
  {{- range $file.time_intervals }}
  - name: {{ .name | quote }}
    timeIntervals:
      {{- range .time_intervals }}
      {{- $interval := omit . "location" "times" "days_of_month" }}
      {{- $times := list }}
      {{- range get . "times" | default list }}{{ $times = append $times (dict "startTime" .start_time "endTime" .end_time) }}{{ end }}
      {{- if $times }}{{ $_ := set $interval "times" $times }}{{ end }}
      - {{ toYaml $interval | nindent 8 | trim }}
      {{- end }}
  {{- end }}
receivers:
  {{- toYaml $receivers | nindent 2 }}
{{- end }}
