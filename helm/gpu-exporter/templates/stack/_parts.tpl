{{/*
What Prometheus, Alertmanager and Grafana of the standalone stack, and the hub, have in common. Everything takes a dict with
root and name (prometheus, alertmanager, grafana, hub).
*/}}

{{- define "gpu-exporter.partEnabled" -}}
{{- if and .root.Values.stack.enabled (get .root.Values.stack .name).enabled }}yes{{ end }}
{{- end }}

{{/* http://… within the cluster. Takes port. */}}
{{- define "gpu-exporter.partUrl" -}}
http://{{ include "gpu-exporter.fullname" .root }}-{{ .name }}:{{ .port }}
{{- end }}

{{/*
Deployment, Service and claim. Takes values, port, account, token, args, env, mounts, volumes, ready, live, data, checksum,
and may take image and probe (a map that replaces the HTTP handler of all probes).
*/}}
{{- define "gpu-exporter.part" -}}
{{- $part := .values }}
{{- $root := .root }}
{{- $full := printf "%s-%s" (include "gpu-exporter.fullname" $root) .name }}
{{- $ready := .probe | default (dict "httpGet" (dict "path" .ready "port" "http")) }}
{{- $live := .probe | default (dict "httpGet" (dict "path" .live "port" "http")) }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "gpu-exporter.metadata" (dict "root" $root "suffix" .name "component" .name) | nindent 2 }}
spec:
  replicas: 1
  # One writer: the new pod takes the volume when the old one has let it go.
  strategy: {type: Recreate}
  revisionHistoryLimit: {{ int $root.Values.revisionHistoryLimit }}
  selector:
    matchLabels:
      {{- include "gpu-exporter.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .name }}
  template:
    metadata:
      labels:
        {{- include "gpu-exporter.podLabels" (dict "root" $root "component" .name "labels" $part.podLabels) | nindent 8 }}
      annotations:
        {{- $ours := dict "checksum/config" (sha256sum .checksum) }}
        {{- include "gpu-exporter.podAnnotations" (dict "root" $root "ours" $ours "theirs" $part.podAnnotations) | nindent 8 }}
    spec:
      serviceAccountName: {{ .account | quote }}
      automountServiceAccountToken: {{ .token }}
      enableServiceLinks: false
      {{- with include "gpu-exporter.pullSecrets" $root | trim }}{{ nindent 6 . }}{{ end }}
      {{- with $part.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      securityContext:
        {{- include "gpu-exporter.uids" (dict "root" $root "own" $part.securityContext) | nindent 8 }}
      {{- include "gpu-exporter.nodeSelector" (dict "root" $root "own" $part.nodeSelector) | nindent 6 }}
      {{- with $part.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $part.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ .image | default (include "gpu-exporter.image" (dict "root" $root "image" $part.image)) | quote }}
          imagePullPolicy: {{ $part.image.pullPolicy }}
          {{- with .args }}
          args:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with include "gpu-exporter.environment" (dict "root" $root "env" $part.env "ours" .env) }}
          env:
            {{- . | nindent 12 }}
          {{- end }}
          ports:
            - {name: http, containerPort: {{ .port }}, protocol: TCP}
          startupProbe:
            {{- toYaml (merge (dict "periodSeconds" 5 "failureThreshold" 60) $ready) | nindent 12 }}
          livenessProbe:
            {{- toYaml (merge (dict "periodSeconds" 30 "timeoutSeconds" 5) $live) | nindent 12 }}
          readinessProbe:
            {{- toYaml (merge (dict "timeoutSeconds" 5) $ready) | nindent 12 }}
          {{- with $part.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            {{- $mounts := concat (list (dict "name" "data" "mountPath" .data)) .mounts (tpl (toYaml ($part.extraVolumeMounts | default list)) $root | fromYamlArray) }}
            {{- include "gpu-exporter.joined" (dict "items" $mounts "key" "mountPath") | nindent 12 }}
      volumes:
        {{- $data := dict "name" "data" "emptyDir" dict }}
        {{- if $part.persistence.enabled }}
        {{- $data = dict "name" "data" "persistentVolumeClaim" (dict "claimName" ($part.persistence.existingClaim | default $full)) }}
        {{- end }}
        {{- $volumes := concat (list $data) .volumes (tpl (toYaml ($part.extraVolumes | default list)) $root | fromYamlArray) }}
        {{- include "gpu-exporter.joined" (dict "items" $volumes "key" "name") | nindent 8 }}
        {{- $names := list }}
        {{- range $volumes }}{{ $names = append $names .name }}{{ end }}
        {{- range tpl (toYaml ($part.extraVolumeMounts | default list)) $root | fromYamlArray }}
        {{- if not (has .name $names) }}
        {{- fail (printf "extraVolumeMounts of %s: there is no volume '%s'; there are %s." $.name .name (sortAlpha $names | uniq | join ", ")) }}
        {{- end }}
        {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "gpu-exporter.metadata" (dict "root" $root "suffix" .name "component" .name "annotations" $part.service.annotations) | nindent 2 }}
spec:
  type: {{ $part.service.type }}
  selector:
    {{- include "gpu-exporter.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  ports:
    - {name: http, port: {{ .port }}, targetPort: http, protocol: TCP}
{{- if and $part.persistence.enabled (not $part.persistence.existingClaim) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- $keep := $part.persistence.keep | ternary (dict "helm.sh/resource-policy" "keep") dict }}
  {{- include "gpu-exporter.metadata" (dict "root" $root "suffix" .name "component" .name "annotations" $keep) | nindent 2 }}
spec:
  {{- $wanted := dict "accessModes" $part.persistence.accessModes }}
  {{- with $part.persistence.storageClassName }}{{ $_ := set $wanted "storageClassName" . }}{{ end }}
  {{- $claimed := include "gpu-exporter.claimed" (dict "root" $root "name" $full "size" $part.persistence.size) | fromYaml }}
  {{- omit $claimed "size" | default $wanted | toYaml | nindent 2 }}
  resources:
    requests:
      storage: {{ $claimed.size | default $part.persistence.size | quote }}
{{- end }}
{{- end }}

{{/*
What an API server lets nobody change of a claim that is there already: root, name, size (which is wanted). Empty where there
is none, or where Helm asks no cluster. A claim never shrinks, and grows only when it has a volume.
*/}}
{{- define "gpu-exporter.claimed" -}}
{{- $size := .size }}
{{- with lookup "v1" "PersistentVolumeClaim" (include "gpu-exporter.namespace" .root) .name }}
{{- $kept := pick .spec "accessModes" "storageClassName" }}
{{- $had := .spec.resources.requests.storage }}
{{- $smaller := lt (include "gpu-exporter.quantity" $size | float64) (include "gpu-exporter.quantity" $had | float64) }}
{{- if or $smaller (not (has (dig "status" "phase" "Bound" .) (list "Bound"))) }}{{ $_ := set $kept "size" $had }}{{ end }}
{{- toYaml $kept }}
{{- end }}
{{- end }}

{{/* A quantity as a number, as exact as float64 is: from nano (n) to exa (E) and exbi (Ei), or with an exponent. */}}
{{- define "gpu-exporter.quantity" -}}
{{- $number := regexFind "^[+-]?[0-9.]+([eE][-+]?[0-9]+)?" (toString .) }}
{{- $factors := dict "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 }}
{{- printf "%.17g" (mulf (float64 $number) (get $factors (trimPrefix $number (toString .)) | default 1.0)) }}
{{- end }}

{{/* Ingress and HTTPRoute to a part: values (ingress, httpRoute), port. */}}
{{- define "gpu-exporter.entry" -}}
{{- $root := .root }}
{{- $service := printf "%s-%s" (include "gpu-exporter.fullname" $root) .name }}
{{- $port := .port }}
{{- $ingress := .values.ingress }}
{{- if $ingress.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  {{- include "gpu-exporter.metadata" (dict "root" $root "suffix" .name "component" .name "annotations" $ingress.annotations) | nindent 2 }}
spec:
  {{- with $ingress.className }}
  ingressClassName: {{ . | quote }}
  {{- end }}
  {{- if $ingress.tlsSecret }}
  tls:
    - secretName: {{ $ingress.tlsSecret | quote }}
      {{- with without $ingress.hosts "" }}
      hosts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- end }}
  rules:
    {{- range $ingress.hosts }}
    - {{ if . }}host: {{ . | quote }}
      {{ end }}http:
        paths:
          - path: {{ $ingress.path | quote }}
            pathType: Prefix
            backend:
              service:
                name: {{ $service | quote }}
                port: {name: http}
    {{- end }}
{{- end }}
{{- $route := .values.httpRoute }}
{{- if $route.enabled }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  {{- include "gpu-exporter.metadata" (dict "root" $root "suffix" .name "component" .name "annotations" $route.annotations) | nindent 2 }}
spec:
  parentRefs:
    {{- toYaml $route.parentRefs | nindent 4 }}
  {{- with $route.hostnames }}
  hostnames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    - matches:
        - path: {type: PathPrefix, value: {{ $route.path | quote }}}
      backendRefs:
        - name: {{ $service | quote }}
          port: {{ $port }}
{{- end }}
{{- end }}
