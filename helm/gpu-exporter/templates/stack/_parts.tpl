{{/*
What Prometheus, Alertmanager and Grafana of the standalone stack have in common. Everything takes a dict with root and
name (prometheus, alertmanager, grafana).
*/}}

{{- define "gpu-exporter.partEnabled" -}}
{{- if and .root.Values.stack.enabled (get .root.Values.stack .name).enabled }}yes{{ end }}
{{- end }}

{{/* http://… within the cluster. Takes port. */}}
{{- define "gpu-exporter.partUrl" -}}
http://{{ include "gpu-exporter.fullname" .root }}-{{ .name }}:{{ .port }}
{{- end }}

{{/* Deployment, Service and claim. Takes port, uid, account, token, args, env, mounts, volumes, ready, live, data, checksum. */}}
{{- define "gpu-exporter.part" -}}
{{- $part := get .root.Values.stack .name }}
{{- $full := printf "%s-%s" (include "gpu-exporter.fullname" .root) .name }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "gpu-exporter.metadata" (dict "root" .root "suffix" .name "component" .name) | nindent 2 }}
spec:
  replicas: 1
  # One writer: the new pod takes the volume when the old one has let it go.
  strategy: {type: Recreate}
  revisionHistoryLimit: {{ int .root.Values.revisionHistoryLimit }}
  selector:
    matchLabels:
      {{- include "gpu-exporter.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .name }}
  template:
    metadata:
      labels:
        {{- include "gpu-exporter.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
      annotations:
        checksum/config: {{ .checksum | sha256sum }}
        {{- with $part.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ .account }}
      automountServiceAccountToken: {{ .token }}
      enableServiceLinks: false
      {{- with include "gpu-exporter.pullSecrets" .root | trim }}{{ nindent 6 . }}{{ end }}
      securityContext:
        runAsUser: {{ .uid }}
        runAsGroup: {{ .uid }}
        fsGroup: {{ .uid }}
        runAsNonRoot: true
        seccompProfile: {type: RuntimeDefault}
      {{- with $part.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
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
          image: {{ include "gpu-exporter.image" (dict "root" .root "image" $part.image) }}
          imagePullPolicy: {{ $part.image.pullPolicy }}
          {{- with .args }}
          args:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with .env }}
          env:
            {{- . | nindent 12 }}
          {{- end }}
          ports:
            - {name: http, containerPort: {{ .port }}, protocol: TCP}
          startupProbe:
            httpGet: {path: {{ .ready }}, port: http}
            periodSeconds: 5
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: {{ .live }}, port: http}
            periodSeconds: 30
            timeoutSeconds: 5
          readinessProbe:
            httpGet: {path: {{ .ready }}, port: http}
            timeoutSeconds: 5
          {{- with $part.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: data, mountPath: {{ .data }}}
            {{- .mounts | trim | nindent 12 }}
      volumes:
        - name: data
          {{- if $part.persistence.enabled }}
          persistentVolumeClaim:
            claimName: {{ $part.persistence.existingClaim | default $full }}
          {{- else }}
          emptyDir: {}
          {{- end }}
        {{- .volumes | trim | nindent 8 }}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "gpu-exporter.metadata" (dict "root" .root "suffix" .name "component" .name "annotations" $part.service.annotations) | nindent 2 }}
spec:
  type: {{ $part.service.type }}
  selector:
    {{- include "gpu-exporter.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  ports:
    - {name: http, port: {{ .port }}, targetPort: http, protocol: TCP}
{{- if and $part.persistence.enabled (not $part.persistence.existingClaim) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "gpu-exporter.metadata" (dict "root" .root "suffix" .name "component" .name) | nindent 2 }}
spec:
  accessModes:
    {{- toYaml $part.persistence.accessModes | nindent 4 }}
  {{- with $part.persistence.storageClassName }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ $part.persistence.size }}
{{- end }}
{{- end }}
