{{/*
The exporter's pod. Nothing of the node is in it but what was asked for: processes (hostPID, user names), the kubelet's
socket, the files of a Slurm prolog.
*/}}

{{- define "gpu-exporter.userNames" -}}
{{- if and .Values.processes.enabled (ne .Values.processes.userNames "none") }}
{{- if ne .Values.processes.userNames "auto" }}{{ .Values.processes.userNames }}
{{- else }}{{ .Values.owners.kubernetes.enabled | ternary "file" "directory" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The volume's name of a ConfigMap or Secret: kind, name. Volumes have shorter names than what they show. */}}
{{- define "gpu-exporter.volumeName" -}}
{{- if regexMatch "^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$" .name }}{{ .kind }}-{{ .name }}
{{- else }}{{ .kind }}-{{ sha256sum .name | trunc 12 }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.volumes" -}}
{{- $made := list (dict "name" "config" "configMap" (dict "name" (include "gpu-exporter.fullname" .))) }}
{{- /* 288 is 0440: the group is securityContext.fsGroup. */}}
{{- if include "gpu-exporter.hasWebConfig" . }}
{{- $name := .Values.webConfig.existingSecret | default (printf "%s-web-config" (include "gpu-exporter.fullname" .)) }}
{{- $made = append $made (dict "name" "web-config" "secret" (dict "secretName" $name "defaultMode" 288)) }}
{{- end }}
{{- with .Values.webConfig.tls.secretName }}
{{- $made = append $made (dict "name" "tls" "secret" (dict "secretName" . "defaultMode" 288)) }}
{{- end }}
{{- if .Values.owners.kubernetes.enabled }}
{{- $folder := printf "%s/pod-resources" (trimSuffix "/" .Values.owners.kubernetes.kubeletDirectory) }}
{{- $made = append $made (dict "name" "pod-resources" "hostPath" (dict "path" $folder "type" "Directory")) }}
{{- with .Values.owners.kubernetes.cdiDirectory }}
{{- $made = append $made (dict "name" "cdi" "hostPath" (dict "path" . "type" "DirectoryOrCreate")) }}
{{- end }}
{{- end }}
{{- with include "gpu-exporter.userNames" . }}
{{- $file := eq . "file" }}
{{- $made = append $made (dict "name" "host-etc" "hostPath" (dict "path" ($file | ternary "/etc/passwd" "/etc") "type" ($file | ternary "File" "Directory"))) }}
{{- end }}
{{- if .Values.owners.slurm.enabled }}
{{- $made = append $made (dict "name" "slurm" "hostPath" (dict "path" .Values.owners.slurm.directory "type" "DirectoryOrCreate")) }}
{{- end }}
{{- range .Values.configmaps }}
{{- $made = append $made (dict "name" (include "gpu-exporter.volumeName" (dict "kind" "configmap" "name" .name)) "configMap" (dict "name" .name)) }}
{{- end }}
{{- range .Values.secrets }}
{{- $made = append $made (dict "name" (include "gpu-exporter.volumeName" (dict "kind" "secret" "name" .name)) "secret" (dict "secretName" .name)) }}
{{- end }}
{{- range .Values.extraHostVolumeMounts }}
{{- $path := dict "path" .hostPath }}
{{- with .type }}{{ $_ := set $path "type" . }}{{ end }}
{{- $made = append $made (dict "name" .name "hostPath" $path) }}
{{- end }}
{{- with .Values.extraVolumes }}{{ $made = concat $made (tpl (toYaml .) $ | fromYamlArray) }}{{ end }}
{{- include "gpu-exporter.joined" (dict "items" $made "key" "name") }}
{{- end }}

{{- define "gpu-exporter.mounts" -}}
{{- $made := list (dict "name" "config" "mountPath" "/etc/gpu-exporter" "readOnly" true) }}
{{- if include "gpu-exporter.hasWebConfig" . }}
{{- $made = append $made (dict "name" "web-config" "mountPath" "/etc/gpu-exporter-web" "readOnly" true) }}
{{- end }}
{{- if .Values.webConfig.tls.secretName }}
{{- $made = append $made (dict "name" "tls" "mountPath" "/etc/gpu-exporter-tls" "readOnly" true) }}
{{- end }}
{{- if .Values.owners.kubernetes.enabled }}
{{- $made = append $made (dict "name" "pod-resources" "mountPath" "/var/lib/kubelet/pod-resources" "readOnly" true) }}
{{- if .Values.owners.kubernetes.cdiDirectory }}
{{- $made = append $made (dict "name" "cdi" "mountPath" "/var/run/cdi" "readOnly" true) }}
{{- end }}
{{- end }}
{{- with include "gpu-exporter.userNames" . }}
{{- $made = append $made (dict "name" "host-etc" "mountPath" (eq . "file" | ternary "/host/etc/passwd" "/host/etc") "readOnly" true) }}
{{- end }}
{{- if .Values.owners.slurm.enabled }}
{{- $made = append $made (dict "name" "slurm" "mountPath" .Values.owners.slurm.directory "readOnly" true) }}
{{- end }}
{{- range $kind, $mounts := dict "configmap" .Values.configmaps "secret" .Values.secrets }}
{{- range $mounts }}
{{- $name := include "gpu-exporter.volumeName" (dict "kind" $kind "name" .name) }}
{{- $made = append $made (mergeOverwrite (dict "readOnly" true) (omit . "name") (dict "name" $name)) }}
{{- end }}
{{- end }}
{{- range .Values.extraHostVolumeMounts }}
{{- $made = append $made (mergeOverwrite (dict "readOnly" true) (pick . "name" "mountPath" "readOnly" "mountPropagation")) }}
{{- end }}
{{- with .Values.extraVolumeMounts }}{{ $made = concat $made (tpl (toYaml .) $ | fromYamlArray) }}{{ end }}
{{- include "gpu-exporter.joined" (dict "items" $made "key" "mountPath") }}
{{- end }}

{{/* A map NAME: value or a list as in a pod, behind what is there already (ours): root, env, ours. One of a name remains. */}}
{{- define "gpu-exporter.environment" -}}
{{- $made := .ours | default list }}
{{- if kindIs "map" .env }}
{{- range $name, $value := .env }}
{{- $made = append $made (dict "name" $name "value" (tpl (toString $value) $.root)) }}
{{- end }}
{{- else if .env }}
{{- $made = concat $made (tpl (toYaml .env) .root | fromYamlArray) }}
{{- end }}
{{- if $made }}{{ include "gpu-exporter.joined" (dict "items" $made "key" "name") }}{{ end }}
{{- end }}

{{/* What the exporter's container is told besides its files. */}}
{{- define "gpu-exporter.ownEnvironment" -}}
{{- $made := list }}
{{- /* All GPUs of the node, without asking the scheduler for one: nvidia.com/gpu is for who computes. A claim of DRA
tells by itself which devices the container gets. */}}
{{- if not (or .Values.resourceClaims .Values.resources.claims) }}
{{- $made = append $made (dict "name" "NVIDIA_VISIBLE_DEVICES" "value" (.Values.fake.enabled | ternary "void" .Values.nvidiaVisibleDevices)) }}
{{- $made = append $made (dict "name" "NVIDIA_DRIVER_CAPABILITIES" "value" .Values.nvidiaDriverCapabilities) }}
{{- end }}
{{- /* The name that /api/v1/snapshot tells: a pod knows its own only. */}}
{{- if not ((.Values.config | default dict).host | default dict).name }}
{{- $made = append $made (dict "name" "GPU_EXPORTER_HOST_NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "spec.nodeName"))) }}
{{- end }}
{{- toYaml $made }}
{{- end }}

{{/*
Nodes: what nodeDetection tells, unless affinity has a nodeAffinity. Simulated GPUs run everywhere but on nodes that take
no DaemonSet.
*/}}
{{- define "gpu-exporter.affinity" -}}
{{- $affinity := deepCopy .Values.affinity }}
{{- $terms := list }}
{{- if .Values.fake.enabled }}
{{- $terms = list (dict "matchExpressions" (list
  (dict "key" "eks.amazonaws.com/compute-type" "operator" "NotIn" "values" (list "fargate"))
  (dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet")))) }}
{{- else if .Values.nodeDetection.enabled }}
{{- $terms = .Values.nodeDetection.terms }}
{{- end }}
{{- if and $terms (not (hasKey $affinity "nodeAffinity")) }}
{{- $_ := set $affinity "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms)) }}
{{- end }}
{{- with $affinity }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* Node labels: root, own. None of the images is made for Windows. */}}
{{- define "gpu-exporter.nodeSelector" -}}
nodeSelector:
  {{- $own := include "gpu-exporter.texts" (dict "root" .root "texts" .own) | fromYaml }}
  {{- toYaml (mergeOverwrite (dict "kubernetes.io/os" "linux") $own) | nindent 2 }}
{{- end }}

{{- define "gpu-exporter.runtimeClass" -}}
{{- if ne .Values.runtimeClassName "auto" }}{{ .Values.runtimeClassName }}
{{- else if lookup "node.k8s.io/v1" "RuntimeClass" "" "nvidia" }}nvidia
{{- end }}
{{- end }}

{{/* --web.allow travels with the pods and not in the file, which all running pods would read before their probes change. */}}
{{- define "gpu-exporter.arguments" -}}
{{- $made := list "--config.file=/etc/gpu-exporter/gpu-exporter.yml" }}
{{- if include "gpu-exporter.hasWebConfig" . }}
{{- $made = append $made "--web.config.file=/etc/gpu-exporter-web/web-config.yml" }}
{{- end }}
{{- with include "gpu-exporter.allowed" . }}{{ $made = append $made (printf "--web.allow=%s" .) }}{{ end }}
{{- range .Values.extraArgs }}{{ $made = append $made (tpl . $) }}{{ end }}
{{- toYaml $made }}
{{- end }}

{{/* A number, or a map with enabled and port; empty where there is none. */}}
{{- define "gpu-exporter.hostPort" -}}
{{- $told := .Values.hostPort }}
{{- if kindIs "map" $told }}
{{- if $told.enabled }}{{ int ($told.port | default .Values.port) }}{{ end }}
{{- else if $told }}{{ int $told }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.container" -}}
name: exporter
image: {{ include "gpu-exporter.image" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.command }}
command:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
args:
  {{- include "gpu-exporter.arguments" . | nindent 2 }}
{{- with include "gpu-exporter.environment" (dict "root" . "env" .Values.env "ours" (include "gpu-exporter.ownEnvironment" . | fromYamlArray)) }}
env:
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
ports:
  - name: {{ .Values.service.portName | quote }}
    containerPort: {{ int .Values.port }}
    {{- with include "gpu-exporter.hostPort" . }}
    hostPort: {{ . }}
    {{- end }}
    protocol: TCP
{{- with include "gpu-exporter.probe" (dict "root" . "name" "startupProbe" "probe" .Values.startupProbe "path" "/livez") | trim }}{{ nindent 0 . }}{{ end }}
{{- with include "gpu-exporter.probe" (dict "root" . "name" "livenessProbe" "probe" .Values.livenessProbe "path" "/livez") | trim }}{{ nindent 0 . }}{{ end }}
{{- with include "gpu-exporter.probe" (dict "root" . "name" "readinessProbe" "probe" .Values.readinessProbe "path" "/readyz") | trim }}{{ nindent 0 . }}{{ end }}
{{- with .Values.lifecycle }}
lifecycle:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- with .claims }}
  claims:
    {{- include "gpu-exporter.joined" (dict "items" . "key" "name") | nindent 4 }}
  {{- end }}
  {{- with omit . "claims" }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .Values.containerSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.terminationMessageParams }}
{{- toYaml . | nindent 0 }}
{{- end }}
volumeMounts:
  {{- include "gpu-exporter.mounts" . | nindent 2 }}
{{- end }}

{{- define "gpu-exporter.pod" -}}
serviceAccountName: {{ include "gpu-exporter.serviceAccount" . | quote }}
automountServiceAccountToken: {{ .Values.serviceAccount.automountServiceAccountToken }}
enableServiceLinks: false
{{- include "gpu-exporter.pullSecrets" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
{{- if not .Values.fake.enabled }}
{{- with include "gpu-exporter.runtimeClass" . }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end }}
{{- if .Values.processes.enabled }}
hostPID: true
{{- end }}
{{- if .Values.hostNetwork }}
hostNetwork: true
{{- end }}
{{- if kindIs "bool" .Values.hostUsers }}
hostUsers: {{ .Values.hostUsers }}
{{- end }}
{{- if .Values.shareProcessNamespace }}
shareProcessNamespace: true
{{- end }}
dnsPolicy: {{ .Values.dnsPolicy | default (.Values.hostNetwork | ternary "ClusterFirstWithHostNet" "ClusterFirst") }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- include "gpu-exporter.joined" (dict "items" . "key" "ip") | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
securityContext:
  {{- $uid := .Values.owners.kubernetes.enabled | ternary (dict "runAsUser" 0 "runAsNonRoot" false) dict }}
  {{- toYaml (mergeOverwrite (deepCopy .Values.securityContext) $uid) | nindent 2 }}
{{- with include "gpu-exporter.affinity" . }}
affinity:
  {{- . | nindent 2 }}
{{- end }}
{{ include "gpu-exporter.nodeSelector" (dict "root" . "own" .Values.nodeSelector) }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.resourceClaims }}
resourceClaims:
  {{- include "gpu-exporter.joined" (dict "items" . "key" "name") | nindent 2 }}
{{- end }}
{{- with .Values.extraInitContainers }}
initContainers:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
containers:
  - {{ include "gpu-exporter.container" . | nindent 4 | trim }}
  {{- with .Values.sidecars }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
volumes:
  {{- include "gpu-exporter.volumes" . | nindent 2 }}
{{- end }}
