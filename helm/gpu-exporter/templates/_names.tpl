{{/*
Names, labels, images: what every object has.
*/}}

{{/*
Every template begins with this. It completes the values, then refuses what contradicts itself. The first template
(validation/of/values.yaml, which Helm renders before all others) does it for all: they share their values.

Null empties a value. Helm takes out what is null, but not with `--reuse-values`, where it comes as null. What is not there
at all the chart that made the release may not have had (`--reuse-values` brings the old chart's defaults): then it has its
default. Helm does not tell which; knownValues, which comes with the defaults, does. It is a map, because Helm joins maps: a
values file that has an old chart's keeps this chart's from nobody. Text, as it was once, it does.
*/}}
{{- define "gpu-exporter.begin" -}}
{{- if not (hasKey .Values "complete") }}
{{- $_ := set .Values "complete" true }}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson }}
{{- $digest := keys $defaults.knownValues | first }}
{{- $known := .Values.knownValues }}
{{- if and .Release.IsInstall (kindIs "string" $known) (ne (toString $known) $digest) }}
{{- fail (printf "knownValues: '%s' is of another version of this chart; take it out of your values: with it null would give the default back. `helm show values` wrote it, and it is not for values files." $known) }}
{{- end }}
{{- $emptied := or .Release.IsInstall (eq (toString $known) $digest) }}
{{- if kindIs "map" $known }}{{ $emptied = or $emptied (hasKey $known $digest) }}{{ end }}
{{- $gone := dict }}
{{- range $path, $default := $defaults }}
{{- $keys := splitList "." $path }}
{{- $place := $.Values }}
{{- $section := "" }}
{{- $off := false }}
{{- range initial $keys }}
{{- $section = printf "%s.%s" $section . }}
{{- if not (kindIs "map" (get $place .)) }}
{{- if or $emptied $off (hasKey $place .) }}{{ $_ := set $gone $section true }}{{ end }}
{{- $_ := set $place . dict }}
{{- end }}
{{- $off = hasKey $gone $section }}
{{- $place = get $place . }}
{{- end }}
{{- $key := last $keys }}
{{- $null := or $emptied $off (and (hasKey $place $key) (kindIs "invalid" (get $place $key))) }}
{{- if kindIs "invalid" (get $place $key) }}{{ $_ := unset $place $key }}{{ end }}
{{- if kindIs "map" $default }}{{ include "gpu-exporter.withoutNull" (dict "value" (get $place $key) "default" $default) }}{{ end }}
{{- if not (hasKey $place $key) }}
{{- $value := $default }}
{{- if $null }}
{{- if kindIs "map" $default }}{{ $value = dict }}
{{- else if kindIs "slice" $default }}{{ $value = list }}
{{- else if and (eq $key "enabled") $off }}{{ $value = false }}
{{- end }}
{{- end }}
{{- $_ := set $place $key $value }}
{{- end }}
{{- end }}
{{- range .Files.Get "files/texts.json" | fromJsonArray }}
{{- $place := $.Values }}
{{- range splitList "." . }}{{ $place = get $place . }}{{ end }}
{{- if kindIs "map" $place }}{{ include "gpu-exporter.withoutNull" (dict "value" $place "default" (deepCopy $place)) }}{{ end }}
{{- end }}
{{- /* An API server takes a quantity that is null for 0. */}}
{{- range list .Values.resources .Values.tests.resources .Values.hub.resources .Values.stack.prometheus.resources .Values.stack.alertmanager.resources .Values.stack.grafana.resources }}
{{- range $kind, $quantities := omit . "claims" }}
{{- if kindIs "map" $quantities }}{{ include "gpu-exporter.withoutNull" (dict "value" $quantities "default" (deepCopy $quantities)) }}{{ end }}
{{- end }}
{{- end }}
{{- include "gpu-exporter.validate" . }}
{{- end }}
{{- end }}

{{/* Take out of a value what is null and has a default, as Helm itself mostly does: value, default. */}}
{{- define "gpu-exporter.withoutNull" -}}
{{- range $key, $default := .default }}
{{- if and (kindIs "map" $.value) (hasKey $.value $key) }}
{{- if kindIs "invalid" (get $.value $key) }}{{ $_ := unset $.value $key }}
{{- else if kindIs "map" $default }}{{ include "gpu-exporter.withoutNull" (dict "value" (get $.value $key) "default" $default) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A map without the keys that are null, which is how Kubernetes reads them. */}}
{{- define "gpu-exporter.present" -}}
{{- $made := dict }}
{{- range $key, $value := . }}{{ if not (kindIs "invalid" $value) }}{{ $_ := set $made $key $value }}{{ end }}{{ end }}
{{- toYaml $made }}
{{- end }}

{{- define "gpu-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 48 | trimSuffix "-" }}
{{- end }}

{{/*
The release's name is always a part of it, and it is never cut without a digest: two releases never get the same.
48 characters leave room for the longest suffix.
*/}}
{{- define "gpu-exporter.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- include "gpu-exporter.short" .Values.fullnameOverride }}
{{- else if eq .Release.Name (include "gpu-exporter.name" .) }}
{{- include "gpu-exporter.short" .Release.Name }}
{{- else }}
{{- include "gpu-exporter.short" (printf "%s-%s" .Release.Name (include "gpu-exporter.name" .)) }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.short" -}}
{{- if gt (len .) 48 }}{{ trunc 40 . | trimSuffix "-" | trimSuffix "." }}-{{ sha256sum . | trunc 7 }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "gpu-exporter.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{/*
With fullnameOverride, nameOverride changes no object's name but what selects its pods, which no upgrade can change: what
the DaemonSet has stays. Kept in the values, as the cluster is to be asked once.
*/}}
{{- define "gpu-exporter.selectedName" -}}
{{- if not (hasKey .Values "selectedName") }}
{{- $name := include "gpu-exporter.name" . }}
{{- if and .Values.fullnameOverride .Release.IsUpgrade }}
{{- with lookup "apps/v1" "DaemonSet" (include "gpu-exporter.namespace" .) (include "gpu-exporter.fullname" .) }}
{{- $name = get .spec.selector.matchLabels "app.kubernetes.io/name" | default $name }}
{{- end }}
{{- end }}
{{- $_ := set .Values "selectedName" $name }}
{{- end }}
{{- .Values.selectedName }}
{{- end }}

{{- define "gpu-exporter.selector" -}}
app.kubernetes.io/name: {{ include "gpu-exporter.selectedName" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* A map of texts: root, texts. Templates in keys and values are rendered; what comes out is text, whatever it looks like. */}}
{{- define "gpu-exporter.texts" -}}
{{- $made := dict }}
{{- range $key, $value := .texts | default dict }}
{{- $_ := set $made (tpl $key $.root) (tpl (toString $value) $.root) }}
{{- end }}
{{- toYaml $made }}
{{- end }}

{{/*
A list whose entries have a key (env, volumes, mounts): of two with the same, the later takes the place of the earlier.
An API server refuses a list that has both. Takes items and key.
*/}}
{{- define "gpu-exporter.joined" -}}
{{- $order := list }}
{{- $found := dict }}
{{- range .items }}
{{- $key := get . $.key | toString }}
{{- if not (hasKey $found $key) }}{{ $order = append $order $key }}{{ end }}
{{- $_ := set $found $key . }}
{{- end }}
{{- $made := list }}
{{- range $order }}{{ $made = append $made (get $found .) }}{{ end }}
{{- toYaml $made }}
{{- end }}

{{/* Metadata. Takes root and may take: suffix, namespace, component, labels, annotations. What selects always wins. */}}
{{- define "gpu-exporter.metadata" -}}
{{- $root := .root }}
{{- $labels := dict "app.kubernetes.io/version" ($root.Values.image.tag | default $root.Chart.AppVersion | replace "+" "_" | trunc 63)
  "app.kubernetes.io/part-of" "gpu-exporter" "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63) }}
{{- range list $root.Values.commonLabels .labels }}
{{- $labels = mergeOverwrite $labels (include "gpu-exporter.texts" (dict "root" $root "texts" .) | fromYaml) }}
{{- end }}
{{- $fixed := dict "app.kubernetes.io/managed-by" $root.Release.Service "app.kubernetes.io/component" (.component | default "exporter") }}
{{- $labels = mergeOverwrite $labels $fixed (include "gpu-exporter.selector" $root | fromYaml) }}
{{- $name := include "gpu-exporter.fullname" $root }}
{{- with .suffix }}{{ $name = printf "%s-%s" $name . }}{{ end }}
{{- $made := dict "name" $name "namespace" (.namespace | default (include "gpu-exporter.namespace" $root)) "labels" $labels }}
{{- with .annotations }}
{{- $_ := set $made "annotations" (include "gpu-exporter.texts" (dict "root" $root "texts" .) | fromYaml) }}
{{- end }}
{{- toYaml $made }}
{{- end }}

{{/* Labels of a pod: root, component, labels. Only what selects, so that a new chart version restarts nothing. */}}
{{- define "gpu-exporter.podLabels" -}}
{{- $labels := include "gpu-exporter.texts" (dict "root" .root "texts" .labels) | fromYaml }}
{{- toYaml (mergeOverwrite $labels (dict "app.kubernetes.io/component" .component) (include "gpu-exporter.selector" .root | fromYaml)) }}
{{- end }}

{{/* Annotations of a pod: root, ours, theirs, which win. */}}
{{- define "gpu-exporter.podAnnotations" -}}
{{- $theirs := include "gpu-exporter.texts" (dict "root" .root "texts" .theirs) | fromYaml }}
{{- toYaml (mergeOverwrite (deepCopy .ours) $theirs) }}
{{- end }}

{{/* root, image, and tag where the image's may be empty. */}}
{{- define "gpu-exporter.image" -}}
{{- $name := printf "%s/%s" (.root.Values.global.imageRegistry | default .image.registry) .image.repository | trimPrefix "/" }}
{{- if .image.digest }}{{ $name }}@{{ .image.digest }}{{ else }}{{ $name }}:{{ .image.tag | default .tag }}{{ end }}
{{- end }}

{{/* A list of names or of {name: …}, as the latter. */}}
{{- define "gpu-exporter.references" -}}
{{- $found := list }}
{{- range . }}{{ $found = append $found (dict "name" (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .)) }}{{ end }}
{{- toYaml (uniq $found) }}
{{- end }}

{{- define "gpu-exporter.pullSecrets" -}}
{{- with concat (.Values.global.imagePullSecrets | default list) .Values.imagePullSecrets }}
imagePullSecrets:
  {{- include "gpu-exporter.references" . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "gpu-exporter.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/*
The Service: name, class, and replaced (the one that goes). Address, first family and class of a Service cannot be changed
once it is made: one that is in the cluster and has what is wanted keeps its name, and with it a load balancer's address; one
that has something else is followed by a Service of another name, which it keeps from then on. Where Helm asks no cluster,
the name tells of address and family, never of the class. Kept in the values, as the cluster is to be asked once.
*/}}
{{- define "gpu-exporter.service" -}}
{{- if not (hasKey .Values "madeService") }}
{{- $service := .Values.service }}
{{- $plain := include "gpu-exporter.fullname" . }}
{{- $usual := $plain }}
{{- if eq $service.clusterIP "None" }}{{ $usual = printf "%s-headless" $plain }}
{{- else if $service.clusterIP }}{{ $usual = printf "%s-%s" $plain (sha256sum $service.clusterIP | trunc 7) }}
{{- end }}
{{- $family := "" }}
{{- if and $service.ipDualStack.enabled $service.ipDualStack.ipFamilies }}{{ $family = first $service.ipDualStack.ipFamilies }}{{ end }}
{{- if eq $family "IPv6" }}{{ $usual = printf "%s-ipv6" $usual }}{{ end }}
{{- $own := $service.loadBalancerClass | default (printf "%s %s" $service.clusterIP $family) }}
{{- $other := printf "%s-%s" ($usual | trunc 55) (sha256sum $own | trunc 7) }}
{{- $there := dict }}
{{- $fitting := list }}
{{- range $name := list $other $usual $plain | uniq }}
{{- with lookup "v1" "Service" (include "gpu-exporter.namespace" $) $name }}
{{- $_ := set $there $name (get .spec "loadBalancerClass" | default "") }}
{{- $balanced := and (eq (get .spec "type") "LoadBalancer") (eq $service.type "LoadBalancer") }}
{{- $headless := eq (get .spec "clusterIP" | default "") "None" }}
{{- if not (or
  (and $service.loadBalancerClass $balanced (ne (get $there $name) $service.loadBalancerClass))
  (and $service.clusterIP (ne (get .spec "clusterIP" | default "") $service.clusterIP))
  (and $headless (ne $service.type "ClusterIP"))
  (and $family (ne (get .spec "ipFamilies" | default (list "IPv4") | first) $family))) }}
{{- $class := $service.loadBalancerClass }}
{{- if and $balanced (not $class) }}{{ $class = get $there $name }}{{ end }}
{{- $fitting = append $fitting (dict "name" $name "class" $class "headless" $headless) }}
{{- end }}
{{- end }}
{{- end }}
{{- $made := dict "name" (hasKey $there $usual | ternary $other $usual) "class" $service.loadBalancerClass }}
{{- with $fitting }}{{ $made = first . }}{{ end }}
{{- if and (hasKey $there $plain) (ne $made.name $plain) }}{{ $_ := set $made "replaced" $plain }}{{ end }}
{{- $_ := set .Values "madeService" $made }}
{{- end }}
{{- toYaml .Values.madeService }}
{{- end }}

{{- define "gpu-exporter.serviceName" -}}
{{- (include "gpu-exporter.service" . | fromYaml).name }}
{{- end }}

{{/* "yes" where an object of an optional kind is rendered. Takes root, wanted (auto, true, false), api. */}}
{{- define "gpu-exporter.wanted" -}}
{{- if eq (toString .wanted) "true" }}yes
{{- else if and (eq (toString .wanted) "auto") (.root.Capabilities.APIVersions.Has .api) }}yes
{{- end }}
{{- end }}

{{- define "gpu-exporter.wantsPodMonitor" -}}
{{- include "gpu-exporter.wanted" (dict "root" . "wanted" .Values.podMonitor.enabled "api" "monitoring.coreos.com/v1/PodMonitor") }}
{{- end }}

{{- define "gpu-exporter.wantsServiceMonitor" -}}
{{- $wanted := include "gpu-exporter.wanted" (dict "root" . "wanted" .Values.serviceMonitor.enabled "api" "monitoring.coreos.com/v1/ServiceMonitor") }}
{{- if or (eq (toString .Values.serviceMonitor.enabled) "true") (and .Values.service.enabled (not (include "gpu-exporter.wantsPodMonitor" .))) }}
{{- $wanted }}
{{- end }}
{{- end }}

{{/*
The pod's security context: root, own. Uids that are taken out of the top one (OpenShift assigns them) are taken out of
every pod.
*/}}
{{- define "gpu-exporter.uids" -}}
{{- $made := deepCopy .own }}
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- if and (kindIs "invalid" (get $.root.Values.securityContext $key)) }}{{ $_ := unset $made $key }}{{ end }}
{{- if not (hasKey $.root.Values.securityContext $key) }}{{ $_ := unset $made $key }}{{ end }}
{{- end }}
{{- toYaml $made }}
{{- end }}

{{/* "yes" where somebody may read the dashboards: told so, or (auto) a Grafana is in the stack or the cluster knows an operator. */}}
{{- define "gpu-exporter.wantsDashboards" -}}
{{- $dashboards := .Values.dashboards }}
{{- $ours := and .Values.stack.enabled .Values.stack.grafana.enabled }}
{{- $operator := include "gpu-exporter.wanted" (dict "root" . "wanted" $dashboards.operator.enabled "api" "grafana.integreatly.org/v1beta1/GrafanaDashboard") }}
{{- if eq (toString $dashboards.enabled) "true" }}
{{- if or $dashboards.labels $ours $operator }}yes{{ end }}
{{- else if eq (toString $dashboards.enabled) "auto" }}
{{- if or $ours $operator (and $dashboards.labels (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}yes{{ end }}
{{- end }}
{{- end }}
