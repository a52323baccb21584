"""Values of other exporters' charts that have another name in this one, or none: refused with the new name.

A key whose value is empty is passed over: a copy of the other chart's whole values.yaml is told only what counts.
"""

from __future__ import annotations

from typing import Final

_CONTAINER: Final = "of the container: `containerSecurityContext.{}`"
_BOTH: Final = {
    "podSecurityContext": "`securityContext`, which is the pod's here",
    **{
        f"securityContext.{key}": _CONTAINER.format(key)
        for key in ("allowPrivilegeEscalation", "capabilities", "privileged", "procMount", "readOnlyRootFilesystem")
    },
    "extraEnv": "`env`",
    "serviceMonitor.interval": "`scrape.interval`",
    "serviceMonitor.relabelings": "`scrape.relabelings`",
}
DCGM: Final[dict[str, str]] = {
    **_BOTH,
    "arguments": "`extraArgs`, with this exporter's own flags; its metrics need no list of fields",
    "basicAuth": "`webConfig.basicAuthUsers`, with bcrypt hashes",
    "customMetrics": "nothing: all metrics are there; `scrape.metricRelabelings` drops what you do not want",
    "debugDump": "`config.log.level=debug`, or `gpu-exporter sample --record FILE`",
    "extraConfigMapVolumes": "`configmaps`: {name, mountPath}",
    "extraHostVolumes": "`extraHostVolumeMounts`: {name, hostPath, mountPath}",
    "kubeletPath": "`owners.kubernetes.kubeletDirectory`, without /pod-resources",
    "kubernetes": "`owners.kubernetes.enabled`; labels of pods: join kube-state-metrics by namespace, pod",
    "kubernetesDRA": "`owners.kubernetes.enabled`, which knows DRA's claims",
    "mapPodsMetrics": "`owners.kubernetes.enabled`",
    "rollingUpdate": "`updateStrategy.rollingUpdate`",
    "service.address": "`port`",
    "service.enable": "`service.enabled`",
    "serviceMonitor.apiVersion": "nothing: it is monitoring.coreos.com/v1",
    "serviceMonitor.honorLabels": "`scrape.honorLabels`, which has to be true here",
    "tlsServerConfig": "`webConfig.tls`, with a Secret of yours",
}
NVIDIA_GPU_EXPORTER: Final[dict[str, str]] = {
    **_BOTH,
    "grafanaDashboard": "`dashboards`",
    "ingress": "`extraObjects`; `stack.grafana.ingress` and `hub.ingress` are for people",
    "log": "`config.log`",
    "nvidiaGpuDevices": "nothing: the NVIDIA runtime brings the devices",
    "nvidiaSmiCommand": "`config.source`: the driver's library is asked, nvidia-smi where that cannot be",
    "nvidiaSmiHostPath": "nothing: the NVIDIA runtime brings the driver",
    "podMonitor.interval": "`scrape.interval`",
    "podMonitor.metricRelabelings": "`scrape.metricRelabelings`",
    "podMonitor.relabelings": "`scrape.relabelings`",
    "podMonitor.scrapeTimeout": "`scrape.timeout`",
    **{
        f"prometheusRule.{key}": f"`rules.alerts.{alert}` and `rules.thresholds`"
        for key, alert in {
            "collectionFailing": "GPUCollectionFailing",
            "collectionStale": "GPUCollectionStale",
            "temperatureHigh": "GPUTemperatureNearSlowdown",
            "xidCritical": "GPUXidCritical",
        }.items()
    },
    "queryFieldNames": "nothing: all metrics are there",
    "queryFieldNamesExclude": "`scrape.metricRelabelings`",
    "serviceMonitor.bearerTokenFile": "`scrape.authorization`",
    "serviceMonitor.metricRelabelings": "`scrape.metricRelabelings`",
    "serviceMonitor.proxyUrl": "`scrape.proxyUrl`",
    "serviceMonitor.scheme": "nothing: it follows `webConfig.tls.enabled`",
    "serviceMonitor.scrapeTimeout": "`scrape.timeout`",
    "serviceMonitor.tlsConfig": "`scrape.tlsConfig`",
    "telemetryPath": "`config.web.telemetry_path`",
    "volumeMounts": "`extraVolumeMounts`",
    "volumes": "`extraVolumes`",
}
MOVED: Final[dict[str, str]] = {**DCGM, **NVIDIA_GPU_EXPORTER}
