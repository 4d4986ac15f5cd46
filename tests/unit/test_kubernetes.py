"""What compose/kubernetes must be, read as text: locked down, probed, disrupted with care, closed by default."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.declarations import BUILT_IN_QUEUES
from app.settings import Settings, environment_names, secret_names
from tests.deployment import COMPOSE, SERVICES, copy_of_compose

MANIFESTS = COMPOSE / "kubernetes"
WORKERS = [f"worker-{queue.name}" for queue in BUILT_IN_QUEUES]
PROCESSES = [*WORKERS, "event-processor", "dlq-processor", "dashboard"]


@cache
def documents(folder: str = "base") -> tuple[dict[str, Any], ...]:
    found = []
    for path in sorted((MANIFESTS / folder).glob("*.yaml")):
        if path.name != "kustomization.yaml":
            found += [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]
    return tuple(found)


def of(*kinds: str) -> Iterator[dict[str, Any]]:
    return (document for document in documents() if document["kind"] in kinds)


def workloads() -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in of("Deployment", "StatefulSet")}


def pod(name: str) -> dict[str, Any]:
    return dict(workloads()[name]["spec"]["template"])


def test_every_process_and_every_redis_is_there() -> None:
    assert set(workloads()) == {*PROCESSES, *SERVICES.values()}


@pytest.mark.parametrize("name", [*PROCESSES, *SERVICES.values()])
def test_a_pod_is_locked_down(name: str) -> None:
    spec = pod(name)["spec"]
    (container,) = spec["containers"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert "hostPath" not in str(spec["volumes"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claims = workloads()[name]["spec"].get("volumeClaimTemplates", [])
    declared = {v["name"] for v in spec["volumes"]} | {c["metadata"]["name"] for c in claims}
    assert mounted == declared


@pytest.mark.parametrize("name", [*PROCESSES, *SERVICES.values()])
def test_a_pod_is_probed_and_stops_in_its_own_time(name: str) -> None:
    spec = pod(name)["spec"]
    (container,) = spec["containers"]

    assert {"startupProbe", "livenessProbe"} <= set(container)
    assert ("readinessProbe" in container) == (name not in PROCESSES or name == "dashboard")
    least_s = 10 if name == "dashboard" else Settings().drain_s + 10
    assert spec["terminationGracePeriodSeconds"] >= least_s
    liveness = container["livenessProbe"]
    retries = {"event-processor": 3, "dlq-processor": 3, **dict.fromkeys(SERVICES.values(), 8)}
    period = 10 if name in SERVICES.values() else 30
    assert (liveness["periodSeconds"], liveness["failureThreshold"]) == (
        period,
        retries.get(name, 5),
    )
    if name in PROCESSES and name != "dashboard":  # no restarts because a Redis is away
        assert "--forgive-redis" in liveness["exec"]["command"]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_is_given_its_own_login_and_settings_we_know(name: str) -> None:
    template = pod(name)
    (container,) = template["spec"]["containers"]
    login = template["metadata"]["labels"]["arqscope.io/login"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    secret = next(v["secret"] for v in template["spec"]["volumes"] if "secret" in v)

    assert set(given) <= set(environment_names()) | {f"{s}_FILE" for s in secret_names()}
    assert given["REDIS_PASSWORD_FILE"] == f"/run/secrets/arqscope/redis_{login}"
    assert all(given[n].startswith(f"redis://{login}@") for n in given if n.endswith("_URL"))
    allowed = {f"redis_{login}"} | ({"api_key"} if name == "dashboard" else set())
    assert {item["key"] for item in secret["items"]} == allowed
    shared = next(d for d in of("ConfigMap") if d["metadata"]["name"] == "arqscope-settings")
    assert set(shared["data"]) <= set(environment_names())


def test_what_secrets_are_asked_for_is_made(tmp_path: Path) -> None:
    made = {path.name for path in (copy_of_compose(tmp_path) / "secrets").iterdir()}
    asked = set()
    for name in workloads():
        for volume in pod(name)["spec"]["volumes"]:
            sources = [volume, *volume.get("projected", {}).get("sources", [])]
            for source in sources:
                asked |= {item["key"] for item in source.get("secret", {}).get("items", [])}

    assert asked <= made


def test_every_workload_has_a_disruption_budget() -> None:
    budgets = {
        d["metadata"]["name"]: d["spec"]["selector"]["matchLabels"]
        for d in of("PodDisruptionBudget")
    }
    covered = {
        name
        for name in workloads()
        for labels in budgets.values()
        if labels.items() <= pod(name)["metadata"]["labels"].items()
    }

    assert covered == set(workloads())
    for name in PROCESSES:
        assert workloads()[name]["spec"]["replicas"] >= 2, f"{name}: a budget needs two"


def test_nothing_is_reached_but_what_is_named() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in of("NetworkPolicy")}

    assert policies["deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert [port["port"] for port in policies["redis"]["ingress"][0]["ports"]] == [6379]
    assert [port["port"] for port in policies["dashboard"]["ingress"][0]["ports"]] == [8009]
    for name, spec in policies.items():
        for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
            assert rule.get("from") or rule.get("to"), f"{name} lets everybody in or out"
            assert rule["ports"], name
    for name in PROCESSES:
        assert "arqscope.io/login" in pod(name)["metadata"]["labels"]
    for name in SERVICES.values():
        assert pod(name)["metadata"]["labels"]["arqscope.io/part"] == "redis"
    services = {d["metadata"]["name"]: d["spec"] for d in of("Service")}
    assert not [n for n, s in services.items() if s.get("type") in ("NodePort", "LoadBalancer")]


def test_a_selector_finds_its_pods() -> None:
    for name, workload in workloads().items():
        wanted = workload["spec"]["selector"]["matchLabels"].items()
        assert wanted <= pod(name)["metadata"]["labels"].items(), name
    for service in of("Service"):
        wanted = service["spec"]["selector"].items()
        found = [n for n in workloads() if wanted <= pod(n)["metadata"]["labels"].items()]
        assert found == [service["metadata"]["name"]]


def test_kustomizations_name_every_file() -> None:
    for folder in ("base", "keda", "sharded"):
        text = (MANIFESTS / folder / "kustomization.yaml").read_text(encoding="utf-8")
        named = {r for r in yaml.safe_load(text)["resources"] if r.endswith(".yaml")}
        assert named == {
            p.name for p in (MANIFESTS / folder).glob("*.yaml") if p.name != "kustomization.yaml"
        }
    text = (COMPOSE / "redis" / "kustomization.yaml").read_text(encoding="utf-8")
    files = yaml.safe_load(text)["configMapGenerator"][0]["files"]
    assert set(files) == {"common.conf", *(f"{role}.conf" for role in SERVICES)}


def test_the_second_queue_server_is_the_first_with_another_name() -> None:
    """
    Locked down, probed and reached as redis-queue; every process of ours is told of it under its own login.
    """
    first = [d for d in documents() if d["metadata"]["name"] == "redis-queue"]
    renamed = json.loads(json.dumps(first).replace("redis-queue", "redis-queue-2"))
    assert list(documents("sharded")) == renamed
    assert {d["kind"] for d in renamed} == {"Service", "StatefulSet"}

    text = (MANIFESTS / "sharded" / "kustomization.yaml").read_text(encoding="utf-8")
    patches = yaml.safe_load(text)["patches"]
    for name in PROCESSES:
        (patch,) = [
            p
            for p in patches
            if re.fullmatch(p["target"]["name"], name)  # as kustomize anchors it
        ]
        assert patch["target"]["kind"] == "Deployment"
        (step,) = yaml.safe_load(patch["patch"])
        assert (step["op"], step["path"]) == ("add", "/spec/template/spec/containers/0/env/-")
        given = [*pod(name)["spec"]["containers"][0]["env"], step["value"]]
        plain = {v["name"]: v["value"] for v in given if not v["name"].endswith("_FILE")}
        settings = Settings.load(plain, env_file=None)
        assert settings.placement.server_of("event-driven-jobs") == "queue-2"
        home = settings.url("queue")
        assert settings.url("queue-2") == home.replace("@redis-queue:", "@redis-queue-2:"), name


def test_what_scales_exists_and_stays_between_bounds() -> None:
    scaled = {d["spec"]["scaleTargetRef"]["name"]: d["spec"] for d in documents("keda")}

    assert set(scaled) == {*WORKERS, "event-processor"}
    for name, spec in scaled.items():
        assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"] <= 20, name
        assert spec["fallback"]["replicas"] >= spec["minReplicaCount"], name
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 300, name
        assert {t["type"] for t in spec["triggers"]} == {"prometheus"}
    for name in WORKERS:
        query = scaled[name]["triggers"][0]["metadata"]["query"]
        assert f'queue="{name.removeprefix("worker-")}"' in query
        assert scaled[name]["triggers"][0]["metadata"]["threshold"] == str(Settings().concurrency)
