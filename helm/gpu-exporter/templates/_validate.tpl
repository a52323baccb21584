{{/*
Values that contradict each other are refused with one sentence. Types and unknown keys are the schema's business.
*/}}
{{- define "gpu-exporter.validate" -}}
{{- $v := .Values }}
{{- include "gpu-exporter.validateMoved" . }}
{{- include "gpu-exporter.validateShape" . }}

{{- /* The exporter's settings that are this chart's business, as a file, a flag or a variable has them. */}}
{{- $variables := dict }}
{{- if kindIs "map" $v.env }}{{ $variables = $v.env }}
{{- else }}{{ range $v.env }}{{ $_ := set $variables .name true }}{{ end }}
{{- end }}
{{- range $key, $instead := dict
  "source" "fake.enabled (without it the chart runs what the node has)" "fake" "the chart's own fake"
  "web.listen_address" "port" "web.config_file" "webConfig" "processes.enabled" "the chart's own processes.enabled"
  "owners.procfs" "processes.enabled" "owners.kubernetes" "the chart's own owners.kubernetes.enabled"
  "owners.kubernetes_socket" "the chart's own owners.kubernetes.kubeletDirectory"
  "owners.slurm_directory" "the chart's own owners.slurm.directory" }}
{{- $steps := splitList "." $key }}
{{- $place := $v.config }}
{{- range initial $steps }}{{ $place = get $place . | default dict }}{{ end }}
{{- if hasKey $place (last $steps) }}{{ fail (printf "config.%s: the chart sets it itself; use %s instead." $key $instead) }}{{ end }}
{{- /* --source=smi or the like changes nothing of the pod. */}}
{{- if ne $key "source" }}{{ include "gpu-exporter.validateFlag" (dict "root" $ "key" $key "variables" $variables "instead" $instead) }}{{ end }}
{{- end }}
{{- include "gpu-exporter.validateFlag" (dict "root" $ "key" "web.telemetry_path" "variables" $variables "instead" "config.web.telemetry_path") }}

{{- /* Processes, owners, the host. */}}
{{- $hostPID := toString $v.hostPID }}
{{- if and (eq $hostPID "true") (not $v.processes.enabled) }}
{{- fail "hostPID: true is of no use without processes.enabled: true; set both, or neither." }}
{{- end }}
{{- if and (eq $hostPID "false") $v.processes.enabled }}
{{- fail "processes.enabled: true needs hostPID: without it the pod sees no process of the node; leave hostPID empty." }}
{{- end }}
{{- if and $v.fake.enabled (or $v.processes.enabled $v.owners.kubernetes.enabled $v.owners.slurm.enabled) }}
{{- fail "fake.enabled: true simulates GPUs with processes and owners of their own (fake.owners); switch off processes.enabled, owners.kubernetes.enabled and owners.slurm.enabled." }}
{{- end }}
{{- if and (eq (toString $v.hostUsers) "false") (or $v.hostNetwork $v.processes.enabled $v.owners.kubernetes.enabled) }}
{{- fail "hostUsers: false cannot be had together with hostNetwork, processes.enabled or owners.kubernetes.enabled; leave it empty." }}
{{- end }}
{{- if and (include "gpu-exporter.hostPort" .) $v.hostNetwork (ne (include "gpu-exporter.hostPort" . | int) (int $v.port)) }}
{{- fail "hostPort: with hostNetwork: true it is the port itself; leave it 0." }}
{{- end }}
{{- if and $v.hostNetwork (ne ($v.networkPolicy.enabled | toString) "false") }}
{{- range $key, $hubs := dict "namespaces" true "from" true "extraIngress" false "egress" false }}
{{- if and (get $v.networkPolicy $key) (not (and $hubs $v.hub.enabled)) }}
{{- fail (printf "networkPolicy.%s is told, but no NetworkPolicy has an effect on the exporter's pods with hostNetwork: true; leave it empty, and guard the port by config.web.allow." $key) }}
{{- end }}
{{- end }}
{{- if and (eq ($v.networkPolicy.enabled | toString) "true") (not $v.hub.enabled) }}
{{- fail "networkPolicy.enabled: true has no effect on pods with hostNetwork: true; switch one of them off." }}
{{- end }}
{{- end }}
{{- if and $v.fake.scenario (not $v.fake.enabled) }}
{{- fail "fake.scenario is told, but fake.enabled is false; a scenario plays on simulated GPUs only." }}
{{- end }}

{{- /* TLS and passwords. */}}
{{- $web := $v.webConfig }}
{{- if and $web.tls.enabled (not $web.tls.secretName) (not $web.existingSecret) }}
{{- fail "webConfig.tls.enabled: true needs webConfig.tls.secretName: the Secret that has the certificate." }}
{{- end }}
{{- if and $web.tls.secretName (not $web.tls.enabled) }}
{{- fail "webConfig.tls.secretName is told, but webConfig.tls.enabled is false; set it to true, or leave the name empty." }}
{{- end }}
{{- if and $web.existingSecret $web.tls.secretName }}
{{- fail "webConfig.existingSecret and webConfig.tls.secretName both bring a certificate; leave one empty." }}
{{- end }}
{{- if and (ne $web.tls.clientAuthType "NoClientCert") (not $web.tls.caKey) (not $web.existingSecret) }}
{{- fail "webConfig.tls.clientAuthType asks for client certificates, which needs webConfig.tls.caKey: the CA that signs them." }}
{{- end }}
{{- if and (ne $web.tls.clientAuthType "NoClientCert") (not $web.tls.enabled) }}
{{- fail "webConfig.tls.clientAuthType asks for client certificates, which needs webConfig.tls.enabled: true." }}
{{- end }}
{{- range $user, $hash := $web.basicAuthUsers }}
{{- if and (not $web.existingSecret) (not (regexMatch "^\\$2[aby]\\$[0-9]{2}\\$[./A-Za-z0-9]{53}$" $hash)) }}
{{- fail (printf "webConfig.basicAuthUsers.%s is not a bcrypt hash; make one with: htpasswd -nBC 10 %s" $user $user) }}
{{- end }}
{{- end }}

{{- /* Scraping. */}}
{{- if and (eq (toString $v.serviceMonitor.enabled) "true") (eq (toString $v.podMonitor.enabled) "true") }}
{{- fail "serviceMonitor.enabled and podMonitor.enabled are both true: every GPU would be scraped twice; choose one." }}
{{- end }}
{{- if and (eq (toString $v.serviceMonitor.enabled) "true") (not $v.service.enabled) }}
{{- fail "serviceMonitor.enabled: true needs service.enabled: true; or use podMonitor.enabled." }}
{{- end }}
{{- if or (include "gpu-exporter.wantsServiceMonitor" .) (include "gpu-exporter.wantsPodMonitor" .) }}
{{- if and $web.basicAuthUsers (not $v.scrape.basicAuth) }}
{{- fail "webConfig.basicAuthUsers asks for a password; tell the monitor one with scrape.basicAuth: {username: {name, key}, password: {name, key}}." }}
{{- end }}
{{- if and (ne $web.tls.clientAuthType "NoClientCert") (not (and (hasKey $v.scrape.tlsConfig "cert") (hasKey $v.scrape.tlsConfig "keySecret"))) }}
{{- fail "webConfig.tls.clientAuthType asks for a certificate; tell the monitor one with scrape.tlsConfig.cert and scrape.tlsConfig.keySecret." }}
{{- end }}
{{- range $name, $monitor := dict "serviceMonitor" (include "gpu-exporter.wantsServiceMonitor" .) "podMonitor" (include "gpu-exporter.wantsPodMonitor" .) }}
{{- $namespace := (get $v $name).namespace }}
{{- if and $monitor $web.tls.enabled $web.tls.caKey $namespace (ne $namespace (include "gpu-exporter.namespace" $)) (not $v.scrape.tlsConfig) }}
{{- fail (printf "%s.namespace: the Secret %s, whose CA the scrape trusts, is not in namespace %s: leave %s.namespace empty, copy the Secret and tell scrape.tlsConfig, or set webConfig.tls.caKey to \"\" where the CA is a public one." $name ($web.tls.secretName | default "of webConfig") $namespace $name) }}
{{- end }}
{{- end }}
{{- if and $web.tls.enabled $web.existingSecret (not $v.scrape.tlsConfig) }}
{{- fail "webConfig.existingSecret serves HTTPS; tell the monitor what to trust with scrape.tlsConfig." }}
{{- end }}
{{- end }}
{{- /* "auto" is not off: another cluster may know the kind. */}}
{{- $scraped := or (ne (toString $v.serviceMonitor.enabled) "false") (ne (toString $v.podMonitor.enabled) "false") (and $v.stack.enabled $v.stack.prometheus.enabled) }}
{{- if and (or $scraped $v.hub.enabled) (or (and $v.scrape.basicAuth $v.scrape.authorization) (and $v.scrape.oauth2 (or $v.scrape.basicAuth $v.scrape.authorization))) }}
{{- fail "scrape.basicAuth, scrape.authorization and scrape.oauth2 exclude each other; keep one." }}
{{- end }}
{{- if $v.service.enabled }}
{{- if and $v.service.loadBalancerClass (ne $v.service.type "LoadBalancer") }}
{{- fail (printf "service.loadBalancerClass is told, but service.type is %s; use LoadBalancer." $v.service.type) }}
{{- end }}
{{- if not (regexMatch "^(None|(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])([.](25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}|[0-9a-fA-F]*:[0-9a-fA-F:.]+)?$" $v.service.clusterIP) }}
{{- fail (printf "service.clusterIP: '%s' is neither an address nor None." $v.service.clusterIP) }}
{{- end }}
{{- if and (eq $v.service.clusterIP "None") (ne $v.service.type "ClusterIP") }}
{{- fail (printf "service.clusterIP: None is headless, but service.type is %s; use ClusterIP." $v.service.type) }}
{{- end }}
{{- $families := $v.service.ipDualStack }}
{{- if and $families.enabled (eq $families.ipFamilyPolicy "SingleStack") (gt (len $families.ipFamilies) 1) }}
{{- fail (printf "service.ipDualStack: %s are two families, but ipFamilyPolicy is SingleStack; use PreferDualStack." (join ", " $families.ipFamilies)) }}
{{- end }}
{{- if not (regexMatch "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$" $v.service.loadBalancerClass) }}
{{- fail (printf "service.loadBalancerClass: '%s' is no name, such as service.k8s.aws/nlb." $v.service.loadBalancerClass) }}
{{- end }}
{{- if and $v.service.externalTrafficPolicy (eq $v.service.type "ClusterIP") }}
{{- fail "service.externalTrafficPolicy is told, but service.type is ClusterIP; use NodePort or LoadBalancer." }}
{{- end }}
{{- if and $v.service.loadBalancerSourceRanges (ne $v.service.type "LoadBalancer") }}
{{- fail (printf "service.loadBalancerSourceRanges is told, but service.type is %s; use LoadBalancer." $v.service.type) }}
{{- end }}
{{- if and $v.service.nodePort (eq $v.service.type "ClusterIP") }}
{{- fail "service.nodePort is told, but service.type is ClusterIP; use NodePort or LoadBalancer." }}
{{- end }}
{{- end }}
{{- if and $v.dashboards.namespace $v.stack.enabled $v.stack.grafana.enabled (ne $v.dashboards.namespace (include "gpu-exporter.namespace" .)) }}
{{- fail "dashboards.namespace: stack.grafana mounts the dashboards, which must be in the release's namespace; leave it empty." }}
{{- end }}
{{- if and (eq (toString $v.dashboards.operator.enabled) "true") (not $v.dashboards.enabled) }}
{{- fail "dashboards.operator.enabled: true needs dashboards.enabled: true: the operator reads the ConfigMaps." }}
{{- end }}

{{- /* Rules. */}}
{{- if or (ne (toString $v.prometheusRule.enabled) "false") (and $v.stack.enabled $v.stack.prometheus.enabled) }}
{{- if hasKey $v.rules.additionalLabels "bundle" }}
{{- fail "rules.additionalLabels.bundle: by this label the AlertmanagerConfig knows our alerts; use another name." }}
{{- end }}
{{- range $name, $change := $v.rules.alerts }}
{{- if hasKey (get $change "labels" | default dict) "bundle" }}
{{- fail (printf "rules.alerts.%s.labels.bundle: by this label the AlertmanagerConfig knows our alerts; use another name." $name) }}
{{- end }}
{{- if and (hasKey $change "expr") (hasKey $v.rules.thresholds $name) }}
{{- fail (printf "rules.alerts.%s.expr and rules.thresholds.%s exclude each other; keep one." $name $name) }}
{{- end }}
{{- end }}

{{- end }}

{{- /* Mail. */}}
{{- $mail := $v.mail }}
{{- if and $mail.smarthost (not (and $mail.from $mail.to.oncall)) }}
{{- fail "mail.smarthost needs mail.from (the sender) and mail.to.oncall (who is mailed)." }}
{{- end }}
{{- if and (not $mail.smarthost) (or $mail.to.oncall $mail.to.team $mail.owners.domain) }}
{{- fail "mail.to or mail.owners is told, but mail.smarthost, the mail server, is not." }}
{{- end }}
{{- if and $mail.username (not $mail.passwordSecret.name) }}
{{- fail "mail.username needs mail.passwordSecret.name: the Secret that has its password." }}
{{- end }}
{{- if and (ne (toString $v.alertmanagerConfig.enabled) "false") (not $mail.smarthost) }}
{{- fail "alertmanagerConfig.enabled needs mail.smarthost, mail.from and mail.to.oncall." }}
{{- end }}

{{- /* Standalone. */}}
{{- if and $v.stack.enabled $v.stack.grafana.enabled (not $v.dashboards.enabled) }}
{{- fail "stack.grafana.enabled: true needs dashboards.enabled: true; or switch stack.grafana.enabled off." }}
{{- end }}
{{- if and $v.stack.enabled $v.stack.prometheus.enabled $web.basicAuthUsers (not $v.scrape.basicAuth) }}
{{- fail "webConfig.basicAuthUsers asks for a password; tell stack.prometheus one with scrape.basicAuth: {username: {name, key}, password: {name, key}}." }}
{{- end }}
{{- if and $v.stack.enabled $v.stack.prometheus.enabled (ne $web.tls.clientAuthType "NoClientCert") (not (and (hasKey $v.scrape.tlsConfig "cert") (hasKey $v.scrape.tlsConfig "keySecret"))) }}
{{- fail "webConfig.tls.clientAuthType asks for a certificate; tell stack.prometheus one with scrape.tlsConfig.cert and scrape.tlsConfig.keySecret." }}
{{- end }}
{{- range $name, $part := merge (dict "hub" $v.hub) (dict "stack.prometheus" $v.stack.prometheus "stack.alertmanager" $v.stack.alertmanager "stack.grafana" $v.stack.grafana) }}
{{- if include "gpu-exporter.isOn" (dict "root" $ "path" (printf "%s.persistence" $name)) }}
{{- if and $part.persistence.existingClaim (not $part.persistence.enabled) }}
{{- fail (printf "%s.persistence.existingClaim is told, but %s.persistence.enabled is false." $name $name) }}
{{- end }}
{{- if and $part.persistence.enabled (not $part.persistence.existingClaim) }}
{{- if not $part.persistence.accessModes }}
{{- fail (printf "%s.persistence.accessModes is empty; name at least one, such as ReadWriteOnce." $name) }}
{{- end }}
{{- range $part.persistence.accessModes }}
{{- if not (regexMatch "^(ReadWriteOnce|ReadOnlyMany|ReadWriteMany|ReadWriteOncePod)$" .) }}
{{- fail (printf "%s.persistence.accessModes: '%s' is none; there are ReadWriteOnce, ReadOnlyMany, ReadWriteMany and ReadWriteOncePod." $name .) }}
{{- end }}
{{- end }}
{{- $size := $part.persistence.size }}
{{- $known := regexMatch "^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+|[munkMGTPE]|[KMGTPE]i)?$" $size }}
{{- if or (not $known) (le (include "gpu-exporter.quantity" $size | float64) 0.0) }}
{{- fail (printf "%s.persistence.size: '%s' is no size; write 50Gi or the like." $name $size) }}
{{- end }}
{{- end }}
{{- if hasKey $part "ingress" }}
{{- if and $part.ingress.enabled (not $part.ingress.hosts) }}{{ fail (printf "%s.ingress.enabled: true needs %s.ingress.hosts." $name $name) }}{{ end }}
{{- if and $part.httpRoute.enabled (not $part.httpRoute.parentRefs) }}{{ fail (printf "%s.httpRoute.enabled: true needs %s.httpRoute.parentRefs." $name $name) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.tests.enabled (or $v.tests.image.tag $v.tests.image.digest) (not $v.tests.image.repository) }}
{{- fail "tests.image.tag, tests.image.digest: of which image? Tell tests.image.repository; without it the pod has the exporter's image." }}
{{- end }}
{{- if and $v.stack.enabled $v.stack.prometheus.enabled }}
{{- include "gpu-exporter.validateScrape" . }}
{{- end }}
{{- if and $scraped $v.scrape.interval $v.scrape.timeout (gt (include "gpu-exporter.milliseconds" $v.scrape.timeout | int64) (include "gpu-exporter.milliseconds" $v.scrape.interval | int64)) }}
{{- fail (printf "scrape.timeout: %s is longer than scrape.interval, %s; write at most as much." $v.scrape.timeout $v.scrape.interval) }}
{{- end }}
{{- if and $v.stack.enabled $v.stack.prometheus.enabled (not $v.rbac.create) (not $v.serviceAccount.name) }}
{{- fail "stack.prometheus lists pods: with rbac.create: false, give its account the right by hand and tell serviceAccount.name." }}
{{- end }}
{{- end }}

{{/*
A flag or a variable wins over the file, behind the back of probes, Services and monitors: root, key (of the exporter's
setting), variables, instead.
*/}}
{{- define "gpu-exporter.validateFlag" -}}
{{- $flag := .key | replace "_" "-" }}
{{- range .root.Values.extraArgs }}
{{- if regexMatch (printf "^--(no-)?%s(=.*)?$" ($flag | replace "." "[.]")) (tpl . $.root) }}
{{- fail (printf "extraArgs: %s: the chart sets it itself; use %s instead." . $.instead) }}
{{- end }}
{{- end }}
{{- $variable := printf "GPU_EXPORTER_%s" (.key | replace "." "_" | upper) }}
{{- if hasKey .variables $variable }}
{{- fail (printf "env.%s: the chart sets it itself; use %s instead." $variable .instead) }}
{{- end }}
{{- end }}

{{/* What stack.prometheus would not start with, or could not do. */}}
{{- define "gpu-exporter.validateScrape" -}}
{{- $scrape := .Values.scrape }}
{{- $prometheus := .Values.stack.prometheus }}
{{- range $key, $why := dict "oauth2" "Prometheus reads no client id from a Secret: write the whole job as stack.prometheus.extraScrapeConfigs"
  "attachMetadata" "it would need the right to read the cluster's nodes" "scrapeClass" "only the operator has classes" }}
{{- if get $scrape $key }}{{ fail (printf "scrape.%s is for the monitors; stack.prometheus cannot have it: %s." $key $why) }}{{ end }}
{{- end }}
{{- if hasKey $prometheus.extraConfig "scrape_configs" }}
{{- fail "stack.prometheus.extraConfig.scrape_configs would replace the chart's own jobs; use stack.prometheus.extraScrapeConfigs." }}
{{- end }}
{{- $times := include "gpu-exporter.scrapeTimes" . | fromYaml }}
{{- $global := get $prometheus.extraConfig "global" | default dict }}
{{- with get $global "scrape_timeout" }}
{{- if gt (include "gpu-exporter.milliseconds" . | int64) (include "gpu-exporter.milliseconds" $times.global | int64) }}
{{- fail (printf "stack.prometheus.extraConfig.global.scrape_timeout: %s is longer than the interval, %s; write at most as much." . $times.global) }}
{{- end }}
{{- end }}
{{- if gt (include "gpu-exporter.milliseconds" $times.timeout | int64) (include "gpu-exporter.milliseconds" $times.interval | int64) }}
{{- fail (printf "scrape.timeout: %s is longer than the interval of stack.prometheus, %s; write at most as much, or a longer scrape.interval." $times.timeout $times.interval) }}
{{- end }}
{{- range $prometheus.extraScrapeConfigs }}
{{- $interval := get . "scrape_interval" | default $times.global }}
{{- with get . "scrape_timeout" }}
{{- if gt (include "gpu-exporter.milliseconds" . | int64) (include "gpu-exporter.milliseconds" $interval | int64) }}
{{- fail (printf "stack.prometheus.extraScrapeConfigs: a job has scrape_timeout %s and the interval %s; write at most as much." . $interval) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
