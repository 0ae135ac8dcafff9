"""Schemas of the few foreign kinds that our manifests have: closed, and no wider than what we use.

Written from the projects' own references: KEDA 2.17, Gateway API 1.2, GKE's gateway policies,
Prometheus operator 0.80.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
NUMBER = {"type": "integer", "minimum": 0}
# KEDA's metadata of a trigger are texts, numbers as well.
NUMERAL = {"type": "string", "pattern": r"^[1-9]\d*$"}


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """`required`: names, separated by blanks."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def each(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


REDIS = closed("address listName listLength", address=TEXT, listName=TEXT, listLength=NUMERAL)
STREAM = closed("address stream streamLength", address=TEXT, stream=TEXT, streamLength=NUMERAL)
TRIGGER = {
    "oneOf": [
        closed(
            "type metadata authenticationRef",
            type={"const": kind},
            metadata=metadata,
            authenticationRef=closed("name", name=TEXT),
        )
        for kind, metadata in (("redis", REDIS), ("redis-streams", STREAM))
    ]
}
TARGET = closed("group kind name", group={"const": ""}, kind={"const": "Service"}, name=TEXT)

SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        "scaleTargetRef minReplicaCount maxReplicaCount triggers",
        scaleTargetRef=closed("apiVersion kind name", apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicaCount=NUMBER,
        maxReplicaCount=NUMBER,
        pollingInterval=NUMBER,
        cooldownPeriod=NUMBER,
        initialCooldownPeriod=NUMBER,
        advanced=closed(
            "horizontalPodAutoscalerConfig",
            horizontalPodAutoscalerConfig=closed("behavior", behavior={"type": "object"}),
        ),
        triggers=each(TRIGGER),
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): closed(
        "secretTargetRef",
        secretTargetRef=each(closed("parameter name key", parameter=TEXT, name=TEXT, key=TEXT)),
    ),
    ("gateway.networking.k8s.io/v1", "Gateway"): closed(
        "gatewayClassName listeners",
        gatewayClassName=TEXT,
        listeners=each(
            closed(
                "name protocol port tls",
                name=TEXT,
                protocol={"const": "HTTPS"},
                port=PORT,
                tls=closed(
                    "mode certificateRefs",
                    mode={"const": "Terminate"},
                    certificateRefs=each(closed("name", name=TEXT)),
                ),
            )
        ),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        "parentRefs hostnames rules",
        parentRefs=each(closed("name", name=TEXT)),
        hostnames=each(TEXT),
        rules=each(
            closed(
                "backendRefs",
                matches=each(
                    closed(
                        "path",
                        path=closed("type value", type={"const": "PathPrefix"}, value=TEXT),
                    )
                ),
                backendRefs=each(closed("name port", name=TEXT, port=PORT)),
            )
        ),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        "selector podMetricsEndpoints",
        selector=closed("matchLabels", matchLabels={"type": "object"}),
        podMetricsEndpoints=each(closed("port path", port=TEXT, path=TEXT, interval=TEXT)),
    ),
    ("networking.gke.io/v1", "GCPBackendPolicy"): closed(
        "default targetRef",
        default=closed(
            "timeoutSec",
            timeoutSec=NUMBER,
            connectionDraining=closed("drainingTimeoutSec", drainingTimeoutSec=NUMBER),
        ),
        targetRef=TARGET,
    ),
    ("networking.gke.io/v1", "HealthCheckPolicy"): closed(
        "default targetRef",
        default=closed(
            "config",
            config=closed(
                "type httpHealthCheck",
                type={"const": "HTTP"},
                httpHealthCheck=closed("port requestPath", port=PORT, requestPath=TEXT),
            ),
        ),
        targetRef=TARGET,
    ),
}
