"""Values of Kubernetes' own fields: what an API server refuses, and what it takes. Null is not there.

The chart says the same (test_chart_silence.py), and a real API server is asked (test_cluster.py).
"""

from __future__ import annotations

from typing import Any

REFUSED: list[dict[str, Any]] = [
    {"resources": {"requests": {"hugepages-2Mi": "2Mi"}}},
    {"resources": {"requests": {"hugepages-2Mi": "2Mi"}, "limits": {"hugepages-2Mi": "4Mi"}}},
    {"hub": {"enabled": True, "resources": {"requests": {"example.org/gpu": 1}}}},
    {"hub": {"enabled": True, "egress": [{"to": [{"ipBlock": None}]}]}},
    {"podLabels": {"a b": "c"}},
    {"podAnnotations": {"a/b/c": "d"}},
    {"nodeSelector": {"-a": "b"}},
    {"commonLabels": {"a_/b": "c"}},
    {"hub": {"enabled": True, "podLabels": {"a b": "c"}}},
    {"tolerations": [{"key": "a b", "operator": "Exists"}]},
    {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1}]},
    {"envFrom": [{"prefix": "A=", "configMapRef": {"name": "a"}}]},
    {"service": {"clusterIP": "10.96.300.1"}},
    {"extraInitContainers": [{"name": "a", "image": None}]},
    {"extraInitContainers": [{"name": "a", "image": ""}]},
    {"extraInitContainers": [{"name": "", "image": "b"}]},
    {"extraInitContainers": [{"name": "A_b", "image": "b"}]},
    {"sidecars": [{"name": "a", "image": None}]},
    {"sidecars": [{"name": "a", "image": "b", "env": [{"name": "A", "valueFrom": {}}]}]},
    {"sidecars": [{"name": "a", "image": "b", "env": [None]}]},
    {"sidecars": [{"name": "a", "image": "b", "ports": [None]}]},
    {"sidecars": [{"name": "a", "image": "b", "ports": [{"containerPort": 0}]}]},
    {"sidecars": [{"name": "a", "image": "b", "volumeMounts": [None]}]},
    {"sidecars": [{"name": "a", "image": "b", "envFrom": [{}]}]},
    {"sidecars": [{"name": "a", "image": "b", "livenessProbe": {}}]},
    {"sidecars": [{"name": "a", "image": "b", "livenessProbe": {"exec": None}}]},
    {"sidecars": [{"name": "a", "image": "b", "livenessProbe": {"httpGet": {"port": None}}}]},
    {"sidecars": [{"name": "a", "image": "b", "livenessProbe": {"httpGet": {"port": 0}}}]},
    {
        "sidecars": [
            {"name": "a", "image": "b", "livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}
        ]
    },
    {"sidecars": [{"name": "a", "image": "b", "livenessProbe": {"exec": {}}}]},
    {"sidecars": [{"name": "a", "image": "b", "livenessProbe": {"successThreshold": 2, "tcpSocket": {"port": 1}}}]},
    {
        "sidecars": [
            {
                "name": "a",
                "image": "b",
                "readinessProbe": {"terminationGracePeriodSeconds": 2, "tcpSocket": {"port": 1}},
            }
        ]
    },
    {
        "sidecars": [
            {"name": "a", "image": "b", "livenessProbe": {"terminationGracePeriodSeconds": 0, "tcpSocket": {"port": 1}}}
        ]
    },
    {"sidecars": [{"name": "a", "image": "b", "lifecycle": {"preStop": {"exec": None}}}]},
    {"sidecars": [{"name": "a", "image": "b", "imagePullPolicy": "X"}]},
    {"extraInitContainers": [{"name": "a", "image": "b", "livenessProbe": {"tcpSocket": {"port": 1}}}]},
    {"networkPolicy": {"from": [{"podSelector": None}]}},
    {"networkPolicy": {"from": [{"podSelector": None, "namespaceSelector": None}]}},
    {"networkPolicy": {"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    {"networkPolicy": {"from": [{"ipBlock": {"cidr": None}}]}},
    {"networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}},
    {"networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [None]}}]}},
    {"networkPolicy": {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}},
    {
        "networkPolicy": {
            "from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}}]
        }
    },
    {
        "networkPolicy": {
            "from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": None}]}}]
        }
    },
    {
        "networkPolicy": {
            "from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}}]
        }
    },
    {"networkPolicy": {"from": [{"podSelector": {"matchExpressions": [None]}}]}},
    {"networkPolicy": {"from": [{"podSelector": {"matchExpressions": [{"key": "", "operator": "Exists"}]}}]}},
    {"networkPolicy": {"egress": [{"to": [None]}]}},
    {"networkPolicy": {"egress": [{"to": [{}]}]}},
    {"networkPolicy": {"egress": [{"to": [{"podSelector": None}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": 0}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": 70000}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": "9090"}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": 80, "endPort": 79}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"endPort": 79}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": None, "endPort": 79}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": "http", "endPort": 79}]}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": "toolongnameofaport", "protocol": "TCP"}]}]}},
    {"networkPolicy": {"extraIngress": [{"from": [{}]}]}},
    {"networkPolicy": {"extraIngress": [{"from": [{"namespaceSelector": None}]}]}},
    {"tolerations": [{"key": None, "operator": "Equal"}]},
    {"tolerations": [{"key": "", "operator": "Equal", "value": "a"}]},
    {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}]},
    {"tolerations": [{"key": "a", "operator": "Exists", "effect": None, "tolerationSeconds": 3}]},
    {"tolerations": [{"key": "a", "operator": "Gt", "value": "x"}]},
    {"tolerations": [{"key": "a", "value": "x y"}]},
    {"hostAliases": [{"ip": None, "hostnames": ["a"]}]},
    {"hostAliases": [{"ip": "x", "hostnames": ["a"]}]},
    {"hostAliases": [{"ip": "1.1.1.1", "hostnames": ["A_"]}]},
    {"envFrom": [{}]},
    {"envFrom": [{"configMapRef": None}]},
    {"envFrom": [{"configMapRef": {}}]},
    {"envFrom": [{"configMapRef": {"name": None}}]},
    {"envFrom": [{"configMapRef": {"name": "a"}, "secretRef": {"name": "b"}}]},
    {"env": [{"name": "A", "valueFrom": {}}]},
    {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
    {"env": [{"name": "A", "valueFrom": {"fieldRef": None}}]},
    {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": None}}}]},
    {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "a"}}}]},
    {
        "env": [
            {
                "name": "A",
                "valueFrom": {"secretKeyRef": {"key": "a", "name": "x"}, "configMapKeyRef": {"key": "a", "name": "x"}},
            }
        ]
    },
    {"env": [{"name": "", "value": "x"}]},
    {"env": [{"name": None, "value": "x"}]},
    {"env": {"A=B": "x"}},
    {"env": {"": "x"}},
    {"extraVolumes": [{"name": "A_a", "emptyDir": {}}]},
    {"extraVolumes": [{"name": "a", "hostPath": {"path": ""}}]},
    {"extraVolumes": [{"name": "a", "hostPath": {"path": "/a", "type": "X"}}]},
    {"extraVolumes": [{"name": "a", "configMap": {}}]},
    {"extraVolumes": [{"name": "a", "configMap": {"name": None}}]},
    {"extraVolumes": [{"name": "a", "secret": {}}]},
    {"extraVolumes": [{"name": "a", "secret": {"secretName": None}}]},
    {"extraVolumes": [{"name": "a", "persistentVolumeClaim": {"claimName": ""}}]},
    {"extraVolumeMounts": [{"name": "config", "mountPath": ""}]},
    {"extraVolumeMounts": [{"name": "config", "mountPath": None}]},
    {"extraVolumeMounts": [{"name": "config", "mountPath": "/x", "subPath": "/abs"}]},
    {"extraVolumeMounts": [{"name": "config", "mountPath": "/x", "mountPropagation": "X"}]},
    {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": None}}}},
    {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]
                }
            }
        }
    },
    {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}]
                }
            }
        }
    },
    {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1", "2"]}]}]
                }
            }
        }
    },
    {
        "affinity": {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "preference": {}}]}
        }
    },
    {
        "affinity": {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "preference": {}}]}
        }
    },
    {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [None]}}},
    {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}},
    {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": None}]}}},
    {
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": None}]
            }
        }
    },
    {"lifecycle": {"preStop": {}}},
    {"lifecycle": {"preStop": {"exec": None}}},
    {"lifecycle": {"preStop": {"exec": {"command": ["a"]}, "sleep": {"seconds": 1}}}},
    {"lifecycle": {"preStop": {"sleep": {"seconds": -1}}}},
    {"lifecycle": {"preStop": {"httpGet": {"port": None}}}},
    {"lifecycle": {"preStop": {"exec": {}}}},
    {"livenessProbe": {"handler": {"exec": {}}}},
    {"livenessProbe": {"handler": {"httpGet": {"port": None}}}},
    {"livenessProbe": {"handler": {"httpGet": {"port": 70000}}}},
    {"livenessProbe": {"handler": {"httpGet": {}}}},
    {"livenessProbe": {"timing": {"terminationGracePeriodSeconds": 0}}},
    {"readinessProbe": {"timing": {"terminationGracePeriodSeconds": 5}}},
    {"livenessProbe": {"httpHeaders": [{"name": "A B", "value": "x"}]}},
    {"dnsConfig": {"nameservers": [None]}},
    {"dnsConfig": {"nameservers": ["x"]}},
    {"dnsConfig": {"options": [{"name": None}]}},
    {"dnsConfig": {"options": [{}]}},
    {"dnsConfig": {"options": [None]}},
    {"securityContext": {"runAsUser": -1}},
    {"securityContext": {"seccompProfile": {"type": "Localhost"}}},
    {"securityContext": {"seccompProfile": {"type": None}}},
    {"securityContext": {"sysctls": [None]}},
    {"securityContext": {"fsGroupChangePolicy": "x"}},
    {"securityContext": {"appArmorProfile": {"type": "x"}}},
    {"containerSecurityContext": {"procMount": "x"}},
    {"resourceClaims": [{"name": None, "resourceClaimName": "x"}]},
    {"resources": {"requests": {"nvidia.com/gpu": 1}}},
    {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}},
    {"resources": {"limits": {"nvidia.com/gpu": "1500m"}}},
    {"resources": {"limits": {"gpu": 1}}},
    {"resources": {"limits": {"cpu": "0.5n"}}},
    {"hub": {"enabled": True, "ingress": {"enabled": True, "hosts": ["10.0.0.1"]}}},
    {"service": {"type": "LoadBalancer", "loadBalancerClass": "a b"}},
    {"service": {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}}},
    {
        "sidecars": [
            {"name": "a", "image": "b", "securityContext": {"privileged": True, "allowPrivilegeEscalation": False}}
        ]
    },
    {"sidecars": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": 2}, "limits": {"cpu": 1}}}]},
    {"sidecars": [{"name": "a", "image": "b", "volumeMounts": [{"name": "nope", "mountPath": "/a"}]}]},
]
TAKEN: list[dict[str, Any]] = [
    {"resources": {"requests": {"hugepages-2Mi": "2Mi"}, "limits": {"hugepages-2Mi": "2Mi"}}},
    {"resources": {"requests": {"cpu": "500000u"}, "limits": {"cpu": 1}}},
    {"resources": {"requests": {"cpu": ".5", "memory": "1e3"}, "limits": {"cpu": "+1", "memory": "1E9"}}},
    {"podLabels": {"Example.team": "a", "example.org/team_1": ""}, "podAnnotations": {"Example.org/A": "b c"}},
    {"tolerations": [{"key": "", "operator": "Exists"}, {"key": "example.org/A_b", "operator": "Exists"}]},
    {"hub": {"podLabels": {"a b": "c"}, "enabled": False}},
    {"livenessProbe": {"handler": {"exec": {"command": ["true"]}}}},
    {"livenessProbe": {"handler": {"httpGet": {"path": "/livez", "port": "metrics", "scheme": "HTTP"}}}},
    {"lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}, "postStart": {"sleep": {"seconds": 1}}}},
    {
        "networkPolicy": {
            "egress": [{"ports": [{"port": 80, "endPort": 80}, {"port": "dns-tcp"}, {"protocol": "SCTP"}]}]
        }
    },
    {"networkPolicy": {"from": [{"ipBlock": {"cidr": "fd00::/8", "except": ["fd00::/16"]}}]}},
    {"networkPolicy": {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}]}},
    {"tolerations": [{"key": "a.b/c", "operator": "Equal", "value": "d", "effect": "PreferNoSchedule"}]},
    {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b", "optional": True}}}]},
    {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}]},
    {"envFrom": [{"prefix": "A_", "secretRef": {"name": "a", "optional": True}}]},
    {"extraVolumes": [{"name": "a", "hostPath": {"path": "/a", "type": "BlockDevice"}}]},
    {"extraVolumes": [{"name": "a", "projected": {"sources": [{"configMap": {"name": "b"}}]}}]},
    {"extraVolumes": [{"name": "a", "csi": {"driver": "a.b", "volumeAttributes": {"c": "d"}}}]},
    {"extraVolumeMounts": [{"name": "config", "mountPath": "/x", "subPath": "a/b", "mountPropagation": "None"}]},
    {"sidecars": [{"name": "a", "image": "b:1", "ports": [{"name": "x", "containerPort": 80, "protocol": "UDP"}]}]},
    {"sidecars": [{"name": "a", "image": "b", "resources": {"limits": {"hugepages-2Mi": "2Mi", "memory": "1Gi"}}}]},
    {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}},
    {"securityContext": {"fsGroupChangePolicy": "OnRootMismatch", "supplementalGroups": [1], "sysctls": []}},
    {"resources": {"limits": {"nvidia.com/gpu": 1, "cpu": None, "memory": "256Mi"}}},
    {"hostAliases": [{"ip": "fd00::1", "hostnames": ["a", "b.c"]}]},
    {"dnsConfig": {"nameservers": ["1.1.1.1", "fd00::1"], "options": [{"name": "ndots", "value": "2"}, {"name": "a"}]}},
    {"sidecars": [{"name": "a", "image": "b", "env": [{"name": "A", "valueFrom": None}]}]},
    {"sidecars": [{"name": "a", "image": "b", "args": [None]}]},
    {"sidecars": [{"name": "a", "image": "b", "livenessProbe": {"periodSeconds": 0, "tcpSocket": {"port": 1}}}]},
    {"sidecars": [{"name": "a", "image": "b", "lifecycle": {}}]},
    {"sidecars": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": None}}}]},
    {"sidecars": [{"name": "a", "image": "b", "restartPolicy": "Always"}]},
    {"extraInitContainers": [{"name": "first", "image": "b", "restartPolicy": "Always"}]},
    {"networkPolicy": {"from": [{"podSelector": {}}]}},
    {"networkPolicy": {"from": [{"podSelector": None, "ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    {"networkPolicy": {"from": [{"podSelector": {"matchLabels": {"a": None}}}]}},
    {"networkPolicy": {"egress": [{"to": None}]}},
    {"networkPolicy": {"egress": [{"ports": [{"port": None}]}]}},
    {"tolerations": [{"key": None, "operator": "Exists"}]},
    {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}]},
    {"hostAliases": [{"ip": "1.1.1.1"}]},
    {"envFrom": [{"configMapRef": {"name": "a"}, "secretRef": None}]},
    {"env": [{"name": "A", "valueFrom": None}]},
    {"env": [{"name": "A", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
    {"env": [{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
    {"extraVolumes": [{"name": "a"}]},
    {"extraVolumes": [{"name": "a", "emptyDir": None}]},
    {"extraVolumes": [{"name": "a", "hostPath": None}]},
    {"extraVolumes": [{"name": "a", "projected": {"sources": [{}]}}]},
    {"extraVolumes": [{"name": "a", "projected": {"sources": []}}]},
    {"extraVolumes": [{"name": "a", "emptyDir": {"sizeLimit": None}}]},
    {"extraVolumes": [{"name": "a", "emptyDir": {"medium": "X"}}]},
    {"affinity": {"nodeAffinity": None}},
    {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None}}},
    {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}},
    {"nodeDetection": {"terms": [{}]}},
    {"nodeDetection": {"terms": [{"matchExpressions": None}]}},
    {"lifecycle": {}},
    {"lifecycle": {"preStop": None}},
    {"securityContext": {"seccompProfile": None}},
    {"securityContext": {"supplementalGroups": [None]}},
    {"containerSecurityContext": {"capabilities": {"drop": [None]}}},
    {"containerSecurityContext": {"capabilities": None}},
    {"resourceClaims": [{"name": "a", "resourceClaimName": "x", "resourceClaimTemplateName": None}]},
    {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 1}}},
    {"terminationMessageParams": {"terminationMessagePolicy": None}},
    {"updateStrategy": {"rollingUpdate": None}},
    {"updateStrategy": {"type": None}},
    {"hub": {"enabled": True, "ingress": {"enabled": True, "hosts": [""]}}},
    {"hub": {"enabled": True, "ingress": {"enabled": True, "hosts": ["", "a.b"], "tlsSecret": "x"}}},
    {"hub": {"enabled": True, "persistence": {"enabled": True, "size": "1500m"}}},
    {"hub": {"enabled": True, "persistence": {"enabled": True, "size": "0.0001n"}}},
    {"service": {"type": "NodePort", "nodePort": 80}},
    {"service": {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}}},
    {"podLabels": {"a": None}},
    {"sidecars": [{"name": "a", "image": " b"}]},
    {"sidecars": [{"name": "a", "image": "b", "ports": [{"containerPort": 9435, "name": "metrics"}]}]},
]
