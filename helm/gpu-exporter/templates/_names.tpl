{{/*
Names, labels, images: what every object has.
*/}}

{{/*
Every template begins with this. It completes the values that a release made by an older chart does not have
(`helm upgrade --reuse-values` brings the old chart's defaults), then refuses what contradicts itself. The first template
does it for all: they share their values.
*/}}
{{- define "gpu-exporter.begin" -}}
{{- if not (hasKey .Values "complete") }}
{{- $_ := set .Values "complete" true }}
{{- range $path, $default := .Files.Get "files/defaults.json" | fromJson }}
{{- $keys := splitList "." $path }}
{{- $place := $.Values }}
{{- range initial $keys }}
{{- if not (kindIs "map" (get $place .)) }}{{ $_ := set $place . dict }}{{ end }}
{{- $place = get $place . }}
{{- end }}
{{- if kindIs "invalid" (get $place (last $keys)) }}{{ $_ := set $place (last $keys) $default }}{{ end }}
{{- if not (hasKey $place (last $keys)) }}{{ $_ := set $place (last $keys) $default }}{{ end }}
{{- end }}
{{- include "gpu-exporter.validate" . }}
{{- end }}
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

{{- define "gpu-exporter.selector" -}}
app.kubernetes.io/name: {{ include "gpu-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of an object. Pods have only the selector, component and podLabels: a new chart version restarts nothing. */}}
{{- define "gpu-exporter.labels" -}}
{{ include "gpu-exporter.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/part-of: gpu-exporter
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .Values.commonLabels }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{/* Metadata. Takes root and may take: suffix, namespace, component, labels, annotations. */}}
{{- define "gpu-exporter.metadata" -}}
name: {{ include "gpu-exporter.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .namespace | default (include "gpu-exporter.namespace" .root) }}
labels:
  {{- $labels := include "gpu-exporter.labels" .root | fromYaml }}
  {{- $_ := set $labels "app.kubernetes.io/component" (.component | default "exporter") }}
  {{- toYaml (mergeOverwrite $labels (tpl (toYaml (.labels | default dict)) .root | fromYaml)) | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- tpl (toYaml .) $.root | nindent 2 }}
{{- end }}
{{- end }}

{{/* root, image, and tag where the image's may be empty. */}}
{{- define "gpu-exporter.image" -}}
{{- $name := printf "%s/%s" (.root.Values.global.imageRegistry | default .image.registry) .image.repository | trimPrefix "/" }}
{{- if .image.digest }}{{ $name }}@{{ .image.digest }}{{ else }}{{ $name }}:{{ .image.tag | default .tag }}{{ end }}
{{- end }}

{{- define "gpu-exporter.pullSecrets" -}}
{{- $found := list }}
{{- range concat (.Values.global.imagePullSecrets | default list) .Values.imagePullSecrets }}
{{- $found = append $found (dict "name" (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .)) }}
{{- end }}
{{- with $found | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "gpu-exporter.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
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
