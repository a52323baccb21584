{{/*
What the schema cannot say well: keys of other charts, values that are no text, two things that exclude each other within
one Kubernetes object.
*/}}

{{/* The value at a dotted path, as JSON; empty where there is none. Takes values and path. */}}
{{- define "gpu-exporter.valueAt" -}}
{{- $place := .values }}
{{- range splitList "." .path }}
{{- if kindIs "map" $place }}{{ $place = get $place . }}{{ else }}{{ $place = "" }}{{ end }}
{{- end }}
{{- if $place }}{{ toJson $place }}{{ end }}
{{- end }}

{{/* Values of dcgm-exporter's chart and of nvidia_gpu_exporter's, all at once. */}}
{{- define "gpu-exporter.validateMoved" -}}
{{- $found := list }}
{{- range $path, $now := .Files.Get "files/moved.json" | fromJson }}
{{- if include "gpu-exporter.valueAt" (dict "values" $.Values "path" $path) }}
{{- $found = append $found (printf "%s: %s" $path $now) }}
{{- end }}
{{- end }}
{{- if $found }}
{{- fail (printf "these are values of another exporter's chart; here they are:\n  %s" (join "\n  " $found)) }}
{{- end }}
{{- if regexMatch "dcgm-exporter|nvidia_gpu_exporter" .Values.image.repository }}
{{- fail (printf "image.repository: '%s' is another exporter's image; leave `image` out." .Values.image.repository) }}
{{- end }}
{{- end }}

{{/* Labels, annotations and environment are text. Takes path, texts, and named: whether the keys are those of labels. */}}
{{- define "gpu-exporter.validateTexts" -}}
{{- if .named }}
{{- range $key, $_ := .texts }}
{{- if not (regexMatch "(?i)^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9_.]{0,61}[a-z0-9])?$|[{][{]" $key) }}
{{- fail (printf "%s: '%s' is no key of a label or an annotation, such as example.org/team." $.path $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key, $value := .texts }}
{{- if and (not (kindIs "string" $value)) (not (kindIs "invalid" $value)) }}
{{- $kind := kindIs "bool" $value | ternary "boolean" "number" }}
{{- $hint := printf "%s.%s=%v" $.path ($key | replace "." "\\.") $value }}
{{- fail (printf "%s.%s: got %s, want string: put %v in quotes, or write --set-string '%s'." $.path $key $kind $value $hint) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
"yes" where the part is switched on of which the value at the path is: root, path. What is switched off is not looked at but
by the schema: placeholders may stand there.
*/}}
{{- define "gpu-exporter.isOn" -}}
{{- $on := true }}
{{- $place := .root.Values }}
{{- range splitList "." .path | initial }}
{{- $place = get $place . }}
{{- if and (kindIs "map" $place) (hasKey $place "enabled") (eq (toString $place.enabled) "false") }}{{ $on = false }}{{ end }}
{{- end }}
{{- if $on }}yes{{ end }}
{{- end }}

{{/* Requests and limits: path, resources. What is not shared (nvidia.com/gpu, hugepages) is had whole, and as much as is asked for. */}}
{{- define "gpu-exporter.validateResources" -}}
{{- $path := .path }}
{{- $limits := get (.resources | default dict) "limits" | default dict }}
{{- $requests := get (.resources | default dict) "requests" | default dict }}
{{- range $name, $most := $limits }}
{{- $asked := get $requests $name }}
{{- if and (not (kindIs "invalid" $most)) (gt (include "gpu-exporter.quantity" $asked | float64) (include "gpu-exporter.quantity" $most | float64)) }}
{{- fail (printf "%s: limits.%s, %v, is less than requests.%s, %v; change both." $path $name $most $name $asked) }}
{{- end }}
{{- end }}
{{- range $name, $asked := merge dict $requests $limits }}
{{- if and (or (contains "/" $name) (hasPrefix "hugepages-" $name)) (not (kindIs "invalid" $asked)) }}
{{- $most := include "gpu-exporter.quantity" (get $limits $name) | float64 }}
{{- if or (not (hasKey $limits $name)) (ne (include "gpu-exporter.quantity" $asked | float64) $most) }}
{{- fail (printf "%s: requests.%s, %v, needs limits.%s of as much." $path $name $asked $name) }}
{{- end }}
{{- if ne $most (floor $most) }}{{ fail (printf "%s: limits.%s, %v, is no whole number." $path $name $asked) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gpu-exporter.validateShape" -}}
{{- $v := .Values }}
{{- $label := "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?" }}
{{- $host := printf "^([*][.])?%s([.]%s)*$" $label $label }}
{{- if not (kindIs "string" $v.image.tag) }}
{{- fail (printf "image.tag: got number, want string: put %v in quotes, or write --set-string image.tag=%v." $v.image.tag $v.image.tag) }}
{{- end }}
{{- range $path := .Files.Get "files/texts.json" | fromJsonArray }}
{{- $named := and (not (regexMatch "(^|[.])(env|basicAuthUsers|externalLabels)$" $path)) (include "gpu-exporter.isOn" (dict "root" $ "path" $path)) }}
{{- with include "gpu-exporter.valueAt" (dict "values" $v "path" $path) }}
{{- if hasPrefix "{" . }}{{ include "gpu-exporter.validateTexts" (dict "path" $path "texts" (fromJson .) "named" $named) }}{{ end }}
{{- end }}
{{- end }}

{{- /* Lists of texts that have a shape. */}}
{{- range list
  (list "service.ipDualStack.ipFamilies" "^IPv[46]$" "IPv4 or IPv6")
  (list "service.loadBalancerSourceRanges" "^[0-9a-fA-F.:]+/[0-9]{1,3}$" "a network, such as 10.0.0.0/8")
  (list "networkPolicy.namespaces" "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" "the name of a namespace")
  (list "hub.ingress.hosts" (printf "%s|^$" $host) "a host's name, such as gpus.example.org") (list "hub.httpRoute.hostnames" $host "a host's name, such as gpus.example.org")
  (list "stack.grafana.ingress.hosts" (printf "%s|^$" $host) "a host's name, such as gpus.example.org") (list "stack.grafana.httpRoute.hostnames" $host "a host's name, such as gpus.example.org") }}
{{- $path := index . 0 }}
{{- $pattern := index . 1 }}
{{- $want := index . 2 }}
{{- $found := list }}
{{- if include "gpu-exporter.isOn" (dict "root" $ "path" $path) }}
{{- $found = include "gpu-exporter.valueAt" (dict "values" $v "path" $path) | default "[]" | fromJsonArray }}
{{- end }}
{{- range $found }}
{{- if or (not (regexMatch $pattern .)) (and (contains "host" $path) (regexMatch "^[0-9.]+$" .)) }}{{ fail (printf "%s: '%s' is not %s." $path . $want) }}{{ end }}
{{- end }}
{{- if ne (len $found) (len (uniq $found)) }}{{ fail (printf "%s: %s has one twice." $path (join ", " $found)) }}{{ end }}
{{- end }}

{{- /* Who asks for more than he may have gets nothing. */}}
{{- range concat $v.extraInitContainers $v.sidecars }}
{{- include "gpu-exporter.validateResources" (dict "path" (printf "sidecars, extraInitContainers: '%s': resources" .name) "resources" .resources) }}
{{- end }}
{{- range $path := list "resources" "tests.resources" "hub.resources" "stack.prometheus.resources" "stack.alertmanager.resources" "stack.grafana.resources" }}
{{- $resources := dict }}
{{- if include "gpu-exporter.isOn" (dict "root" $ "path" $path) }}
{{- $resources = include "gpu-exporter.valueAt" (dict "values" $v "path" $path) | default "{}" | fromJson }}
{{- end }}
{{- include "gpu-exporter.validateResources" (dict "path" $path "resources" $resources) }}
{{- end }}

{{- /* Ports of NetworkPolicies. */}}
{{- range $path := list "networkPolicy.extraIngress" "networkPolicy.egress" "hub.egress" }}
{{- if and (ne (toString $v.networkPolicy.enabled) "false") (include "gpu-exporter.isOn" (dict "root" $ "path" $path)) }}
{{- range include "gpu-exporter.valueAt" (dict "values" $v "path" $path) | default "[]" | fromJsonArray }}
{{- range get . "ports" | default list }}
{{- if and .endPort (lt (int .endPort) (int .port)) }}{{ fail (printf "%s: endPort %v is less than port %v." $path .endPort .port) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The chart's own files: a copy without them would render less than was asked for. */}}
{{- range $pattern := list "files/rules/*.yml" "files/dashboards/*.json" "files/alertmanager/alertmanager.yml" "files/alertmanager/templates/*.tmpl"
  "files/prometheus.yml" "files/provisioning/*/*.yml" "files/defaults.json" "files/moved.json" "files/texts.json" "files/thresholds.json" }}
{{- if not ($.Files.Glob $pattern) }}
{{- fail (printf "the chart is not complete: %s is missing. Copy the folder helm/gpu-exporter with everything in it, or take the package." $pattern) }}
{{- end }}
{{- end }}

{{- /* The DaemonSet. */}}
{{- $rolling := get $v.updateStrategy "rollingUpdate" | default dict }}
{{- if ne (get $v.updateStrategy "type" | toString) "OnDelete" }}
{{- if and (hasKey $rolling "maxSurge") (not (has (toString $rolling.maxSurge) (list "0" "0%"))) (not (has (toString (get $rolling "maxUnavailable")) (list "0" "0%"))) }}
{{- fail "updateStrategy.rollingUpdate.maxSurge needs maxUnavailable: 0; a DaemonSet takes one of them." }}
{{- end }}
{{- if and (not (has (toString (get $rolling "maxSurge")) (list "" "<nil>" "0" "0%"))) (or $v.hostNetwork (include "gpu-exporter.hostPort" .)) }}
{{- fail "updateStrategy.rollingUpdate.maxSurge: with hostNetwork or hostPort the old pod has the port; use maxUnavailable." }}
{{- end }}
{{- if and (has (toString (get $rolling "maxUnavailable")) (list "0" "0%")) (has (toString (get $rolling "maxSurge")) (list "" "<nil>" "0" "0%")) }}
{{- fail "updateStrategy.rollingUpdate.maxUnavailable: 0 replaces no pod; give maxSurge, or 1." }}
{{- end }}
{{- end }}
{{- if and (get $v.containerSecurityContext "privileged") (eq (toString (get $v.containerSecurityContext "allowPrivilegeEscalation")) "false") }}
{{- fail "containerSecurityContext.privileged: true needs allowPrivilegeEscalation: true." }}
{{- end }}
{{- $user := mergeOverwrite dict $v.securityContext $v.containerSecurityContext }}
{{- if and (eq (toString (get $user "runAsUser")) "0") (get $user "runAsNonRoot") (not $v.owners.kubernetes.enabled) }}
{{- fail "securityContext.runAsUser: 0 needs runAsNonRoot: false; the kubelet starts no such pod." }}
{{- end }}
{{- if and (get $v.containerSecurityContext "privileged") (eq (toString $v.hostUsers) "false") }}
{{- fail "containerSecurityContext.privileged: true cannot be had with hostUsers: false." }}
{{- end }}
{{- if and $v.shareProcessNamespace $v.processes.enabled }}
{{- fail "shareProcessNamespace: true cannot be had with processes.enabled, which needs the node's processes." }}
{{- end }}
{{- if and (eq $v.dnsPolicy "None") (not (get $v.dnsConfig "nameservers")) }}
{{- fail "dnsPolicy: None needs dnsConfig.nameservers." }}
{{- end }}
{{- range $name, $probe := pick $v "startupProbe" "livenessProbe" "readinessProbe" }}
{{- $handlers := include "gpu-exporter.present" $probe.handler | fromYaml | keys | sortAlpha }}
{{- if and $probe.enabled (gt (len $handlers) 1) }}{{ fail (printf "%s.handler has %s; keep one." $name (join ", " $handlers)) }}{{ end }}
{{- if and $probe.enabled (eq $name "readinessProbe") (get $probe.timing "terminationGracePeriodSeconds") }}
{{- fail "readinessProbe.timing.terminationGracePeriodSeconds: a pod that is not ready is not ended; take it out." }}
{{- end }}
{{- if and $probe.enabled (ne $name "readinessProbe") (gt (get $probe.timing "successThreshold" | default 1 | int) 1) }}
{{- fail (printf "%s.timing.successThreshold must be 1." $name) }}
{{- end }}
{{- end }}

{{- /* Claims of DRA. */}}
{{- $claims := list }}
{{- range $v.resourceClaims }}
{{- if and .resourceClaimName .resourceClaimTemplateName }}
{{- fail (printf "resourceClaims: '%s' has resourceClaimName and resourceClaimTemplateName; keep one." .name) }}
{{- end }}
{{- if not (or .resourceClaimName .resourceClaimTemplateName) }}
{{- fail (printf "resourceClaims: '%s' needs resourceClaimName or resourceClaimTemplateName." .name) }}
{{- end }}
{{- $claims = append $claims .name }}
{{- end }}
{{- range get $v.resources "claims" | default list }}
{{- if not (has .name $claims) }}
{{- fail (printf "resources.claims: there is no claim '%s' in resourceClaims; add {name: %s, resourceClaimTemplateName: …} there." .name .name) }}
{{- end }}
{{- end }}

{{- /* What is mounted is there, and no container has the name of ours. */}}
{{- range $path := list "extraVolumes" "hub.extraVolumes" "stack.prometheus.extraVolumes" "stack.alertmanager.extraVolumes" "stack.grafana.extraVolumes" }}
{{- if include "gpu-exporter.isOn" (dict "root" $ "path" $path) }}
{{- range include "gpu-exporter.valueAt" (dict "values" $v "path" $path) | default "[]" | fromJsonArray }}
{{- $sources := omit (include "gpu-exporter.present" . | fromYaml) "name" | keys | sortAlpha }}
{{- if gt (len $sources) 1 }}{{ fail (printf "%s: '%s' has %s; keep one." $path .name (join ", " $sources)) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- $volumes := list }}
{{- range include "gpu-exporter.volumes" . | fromYamlArray }}{{ $volumes = append $volumes .name }}{{ end }}
{{- range $v.extraVolumeMounts }}
{{- if not (has (tpl .name $) $volumes) }}
{{- fail (printf "extraVolumeMounts: there is no volume '%s'; there are %s." .name (sortAlpha $volumes | join ", ")) }}
{{- end }}
{{- end }}
{{- $containers := list "exporter" }}
{{- range concat $v.extraInitContainers $v.sidecars }}
{{- if has .name $containers }}{{ fail (printf "sidecars, extraInitContainers: there is a container '%s' already; give it another name." .name) }}{{ end }}
{{- $containers = append $containers .name }}
{{- $container := .name }}
{{- $security := get . "securityContext" | default dict }}
{{- if and (get $security "privileged") (eq (toString (get $security "allowPrivilegeEscalation")) "false") }}
{{- fail (printf "sidecars, extraInitContainers: '%s': securityContext.privileged: true needs allowPrivilegeEscalation: true." $container) }}
{{- end }}
{{- range get . "volumeMounts" | default list }}
{{- if not (has (tpl .name $) $volumes) }}
{{- fail (printf "sidecars, extraInitContainers: '%s': there is no volume '%s'; there are %s." $container .name (sortAlpha $volumes | join ", ")) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $container := $v.extraInitContainers }}
{{- range $key := list "lifecycle" "livenessProbe" "readinessProbe" "startupProbe" }}
{{- if and (get $container $key) (ne (get $container "restartPolicy" | toString) "Always") }}
{{- fail (printf "extraInitContainers: '%s' has %s, which takes restartPolicy: Always." $container.name $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
