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

{{- define "gpu-exporter.volumes" -}}
- name: config
  configMap:
    name: {{ include "gpu-exporter.fullname" . }}
{{- if include "gpu-exporter.hasWebConfig" . }}
- name: web-config
  secret:
    secretName: {{ .Values.webConfig.existingSecret | default (printf "%s-web-config" (include "gpu-exporter.fullname" .)) }}
    defaultMode: 288 # 0440: the group is securityContext.fsGroup
{{- end }}
{{- if .Values.webConfig.tls.secretName }}
- name: tls
  secret:
    secretName: {{ .Values.webConfig.tls.secretName }}
    defaultMode: 288
{{- end }}
{{- if .Values.owners.kubernetes.enabled }}
- name: pod-resources
  hostPath:
    path: {{ .Values.owners.kubernetes.kubeletDirectory | trimSuffix "/" }}/pod-resources
    type: Directory
{{- end }}
{{- with include "gpu-exporter.userNames" . }}
- name: host-etc
  hostPath:
    path: {{ eq . "file" | ternary "/etc/passwd" "/etc" }}
    type: {{ eq . "file" | ternary "File" "Directory" }}
{{- end }}
{{- if .Values.owners.slurm.enabled }}
- name: slurm
  hostPath:
    path: {{ .Values.owners.slurm.directory }}
    type: DirectoryOrCreate
{{- end }}
{{- range .Values.configmaps }}
- name: configmap-{{ .name }}
  configMap: {name: {{ .name }}}
{{- end }}
{{- range .Values.secrets }}
- name: secret-{{ .name }}
  secret: {secretName: {{ .name }}}
{{- end }}
{{- range .Values.extraHostVolumeMounts }}
- name: {{ .name }}
  hostPath:
    path: {{ .hostPath }}
    {{- with .type }}
    type: {{ . }}
    {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.mounts" -}}
- {name: config, mountPath: /etc/gpu-exporter, readOnly: true}
{{- if include "gpu-exporter.hasWebConfig" . }}
- {name: web-config, mountPath: /etc/gpu-exporter-web, readOnly: true}
{{- end }}
{{- if .Values.webConfig.tls.secretName }}
- {name: tls, mountPath: /etc/gpu-exporter-tls, readOnly: true}
{{- end }}
{{- if .Values.owners.kubernetes.enabled }}
- {name: pod-resources, mountPath: /var/lib/kubelet/pod-resources, readOnly: true}
{{- end }}
{{- with include "gpu-exporter.userNames" . }}
- {name: host-etc, mountPath: {{ eq . "file" | ternary "/host/etc/passwd" "/host/etc" }}, readOnly: true}
{{- end }}
{{- if .Values.owners.slurm.enabled }}
- {name: slurm, mountPath: {{ .Values.owners.slurm.directory }}, readOnly: true}
{{- end }}
{{- range .Values.configmaps }}
- {name: configmap-{{ .name }}, mountPath: {{ .mountPath }}, readOnly: true}
{{- end }}
{{- range .Values.secrets }}
- {name: secret-{{ .name }}, mountPath: {{ .mountPath }}, readOnly: true}
{{- end }}
{{- range .Values.extraHostVolumeMounts }}
- name: {{ .name }}
  mountPath: {{ .mountPath }}
  readOnly: {{ dig "readOnly" true . }}
  {{- with .mountPropagation }}
  mountPropagation: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}

{{/* A map NAME: value or a list, as a list. */}}
{{- define "gpu-exporter.environment" -}}
{{- if kindIs "map" .env }}
{{- range $name, $value := .env }}
- name: {{ $name }}
  value: {{ tpl $value $.root | quote }}
{{- end }}
{{- else }}
{{- with .env }}
{{ tpl (toYaml .) $.root }}
{{- end }}
{{- end }}
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

{{- define "gpu-exporter.runtimeClass" -}}
{{- if ne .Values.runtimeClassName "auto" }}{{ .Values.runtimeClassName }}
{{- else if lookup "node.k8s.io/v1" "RuntimeClass" "" "nvidia" }}nvidia
{{- end }}
{{- end }}

{{- define "gpu-exporter.pod" -}}
{{- $root := . }}
serviceAccountName: {{ include "gpu-exporter.serviceAccount" . }}
automountServiceAccountToken: {{ .Values.serviceAccount.automountServiceAccountToken }}
enableServiceLinks: false
{{- include "gpu-exporter.pullSecrets" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if not .Values.fake.enabled }}
{{- with include "gpu-exporter.runtimeClass" . }}
runtimeClassName: {{ . }}
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
dnsPolicy: {{ .Values.dnsPolicy | default (.Values.hostNetwork | ternary "ClusterFirstWithHostNet" "ClusterFirst") }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
securityContext:
  {{- $uid := .Values.owners.kubernetes.enabled | ternary (dict "runAsUser" 0 "runAsNonRoot" false) dict }}
  {{- toYaml (mergeOverwrite (deepCopy .Values.securityContext) $uid) | nindent 2 }}
{{- with include "gpu-exporter.affinity" . }}
affinity:
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraInitContainers }}
initContainers:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
containers:
  - name: exporter
    image: {{ include "gpu-exporter.image" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    {{- with .Values.command }}
    command:
      {{- tpl (toYaml .) $ | nindent 6 }}
    {{- end }}
    args:
      - --config.file=/etc/gpu-exporter/gpu-exporter.yml
      {{- if include "gpu-exporter.hasWebConfig" . }}
      - --web.config.file=/etc/gpu-exporter-web/web-config.yml
      {{- end }}
      {{- range .Values.extraArgs }}
      - {{ tpl . $ | quote }}
      {{- end }}
    env:
      # All GPUs of the node, without asking the scheduler for one: nvidia.com/gpu is for who computes.
      - name: NVIDIA_VISIBLE_DEVICES
        value: {{ .Values.fake.enabled | ternary "void" "all" }}
      - name: NVIDIA_DRIVER_CAPABILITIES
        value: utility
      {{- if not ((.Values.config | default dict).host | default dict).name }}
      # The name that /api/v1/snapshot tells: a pod knows its own only.
      - name: GPU_EXPORTER_HOST_NAME
        valueFrom:
          fieldRef:
            fieldPath: spec.nodeName
      {{- end }}
      {{- with include "gpu-exporter.environment" (dict "root" . "env" .Values.env) | trim }}{{ nindent 6 . }}{{ end }}
    {{- with .Values.envFrom }}
    envFrom:
      {{- tpl (toYaml .) $ | nindent 6 }}
    {{- end }}
    ports:
      - name: {{ .Values.service.portName }}
        containerPort: {{ int .Values.port }}
        protocol: TCP
    {{- with include "gpu-exporter.probe" (dict "root" . "name" "startupProbe" "probe" .Values.startupProbe "path" "/livez") | trim }}{{ nindent 4 . }}{{ end }}
    {{- with include "gpu-exporter.probe" (dict "root" . "name" "livenessProbe" "probe" .Values.livenessProbe "path" "/livez") | trim }}{{ nindent 4 . }}{{ end }}
    {{- with include "gpu-exporter.probe" (dict "root" . "name" "readinessProbe" "probe" .Values.readinessProbe "path" "/readyz") | trim }}{{ nindent 4 . }}{{ end }}
    {{- with .Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.containerSecurityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.terminationMessageParams }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    volumeMounts:
      {{- include "gpu-exporter.mounts" . | nindent 6 }}
  {{- with .Values.sidecars }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
volumes:
  {{- include "gpu-exporter.volumes" . | nindent 2 }}
{{- end }}
