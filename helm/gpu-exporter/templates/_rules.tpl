{{/*
The rules of deploy/prometheus/rules with what `rules` changes. They are read as data and never rendered: the braces in
them are Prometheus's.
*/}}
{{- define "gpu-exporter.ruleGroups" -}}
{{- $values := .Values.rules }}
{{- $grafana := $values.grafanaUrl | default (.Values.stack.enabled | ternary .Values.stack.grafana.externalUrl "") | trimSuffix "/" }}
{{- $thresholds := .Files.Get "files/thresholds.json" | fromJson }}
{{- $groups := list }}
{{- $names := dict }}
{{- $known := dict }}
{{- range $path, $_ := .Files.Glob "files/rules/*.yml" }}
{{- range $group := get ($.Files.Get $path | fromYaml) "groups" }}
{{- $_ := set $names $group.name true }}
{{- $kept := list }}
{{- range $rule := $group.rules }}
{{- $name := get $rule "alert" }}
{{- $change := get $values.alerts $name | default dict }}
{{- if $name }}{{ $_ := set $known $name true }}{{ end }}
{{- if dig "enabled" (not (has $group.name $values.disabledGroups)) $change }}
{{- if $name }}
{{- if hasKey $values.thresholds $name }}
{{- $comparison := get (get $thresholds $name) "comparison" }}
{{- $value := get $values.thresholds $name }}
{{- $_ := set $rule "expr" (replace $comparison (printf "%s %v" (regexFind "^[<>=]+" $comparison) $value) $rule.expr) }}
{{- end }}
{{- range $key, $value := pick $change "expr" "for" "keep_firing_for" }}{{ $_ := set $rule $key $value }}{{ end }}
{{- $severity := hasKey $change "severity" | ternary (dict "severity" (get $change "severity")) dict }}
{{- $_ := set $rule "labels" (mergeOverwrite dict (get $rule "labels" | default dict) $values.additionalLabels (get $change "labels" | default dict) $severity) }}
{{- $notes := get $rule "annotations" }}
{{- if $grafana }}
{{- $_ := set $notes "dashboard_url" (regexReplaceAllLiteral "^http://localhost:3000" (get $notes "dashboard_url") $grafana) }}
{{- end }}
{{- if $values.runbookUrl }}
{{- $_ := set $notes "runbook_url" (printf "%s/%s" (trimSuffix "/" $values.runbookUrl) (base (get $notes "runbook_url"))) }}
{{- end }}
{{- $_ := set $rule "annotations" (mergeOverwrite $notes (get $change "annotations" | default dict)) }}
{{- end }}
{{- $kept = append $kept $rule }}
{{- end }}
{{- end }}
{{- if $kept }}{{ $groups = append $groups (set $group "rules" $kept) }}{{ end }}
{{- end }}
{{- end }}
{{- range $name := $values.disabledGroups }}
{{- if not (hasKey $names $name) }}
{{- fail (printf "rules.disabledGroups: there is no group '%s'; there are %s." $name (keys $names | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- range $name := keys $values.alerts | sortAlpha }}
{{- if not (hasKey $known $name) }}
{{- fail (printf "rules.alerts: there is no alert '%s'; there are %s." $name (keys $known | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- /* Alerts of one's own groups are ours as well: they are mailed as the others are. */}}
{{- range $group := deepCopy $values.additionalGroups }}
{{- range $groups }}
{{- if eq .name $group.name }}{{ fail (printf "rules.additionalGroups: there is a group '%s' already; give it another name." .name) }}{{ end }}
{{- end }}
{{- range $rule := $group.rules }}
{{- if hasKey $rule "alert" }}
{{- $_ := set $rule "labels" (mergeOverwrite (dict "bundle" "gpu-exporter") (get $rule "labels" | default dict)) }}
{{- end }}
{{- end }}
{{- $groups = append $groups $group }}
{{- end }}
groups:
  {{- toYaml $groups | nindent 2 }}
{{- end }}
