"""Alerts, dashboard and scaling name metrics that /metrics has, and an answer for each alert stands in the guide."""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from app.api import metrics
from app.snapshot import Snapshot
from tests.deployment import COMPOSE, ROOT

#: of a histogram family
_SUFFIXES = ("_bucket", "_count", "_sum")
#: what Prometheus itself has
_PROMETHEUS = {"up"}


@functools.cache
def exposed() -> dict[str, set[str]]:
    """Every metric /metrics can have, by name, with its labels."""
    source = metrics._Source(Snapshot.empty(), {})
    found: dict[str, set[str]] = {}
    for family in source.collect():
        labels = set(getattr(family, "_labelnames", ()))
        if family.type == "histogram":
            found |= {family.name + suffix: labels | {"le"} for suffix in _SUFFIXES}
        else:
            found[family.name + ("_total" if family.type == "counter" else "")] = labels
    return found


def grafana() -> dict[str, Any]:
    return dict(json.loads((COMPOSE / "grafana" / "arqscope.json").read_text(encoding="utf-8")))


def alerts() -> list[dict[str, Any]]:
    text = (COMPOSE / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression we ship, with where it stands."""
    for rule in alerts():
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in grafana()["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for variable in grafana()["templating"]["list"]:
        yield f"variable {variable['name']}", variable.get("definition", "")
    scaled = (COMPOSE / "kubernetes" / "keda" / "scaled-objects.yaml").read_text(encoding="utf-8")
    for document in yaml.safe_load_all(scaled):
        for trigger in document["spec"]["triggers"] if document else ():
            yield f"scaler {document['metadata']['name']}", trigger["metadata"]["query"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_names_what_is_exposed(where: str, expression: str) -> None:
    known = exposed()
    labels: set[str] = set().union(*known.values()) | {"job", "instance"}
    named = set(re.findall(r"\b(?:arqscope_\w+|up)\b", expression))

    assert named or where == "variable datasource", where
    assert named <= set(known) | _PROMETHEUS, where
    selected = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    used = selected | {name.strip() for group in grouped for name in group.split(",")}
    assert used <= labels, where


def test_most_of_what_is_exposed_is_looked_at() -> None:
    seen = " ".join(expression for _, expression in expressions())

    assert {
        name for name in exposed() if name not in seen and not name.endswith(_SUFFIXES)
    } == set()


def test_every_alert_is_tested_and_has_an_answer() -> None:
    names = [rule["alert"] for rule in alerts()]
    tested = (COMPOSE / "prometheus" / "alerts_test.yaml").read_text(encoding="utf-8")
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

    assert len(set(names)) == len(names)
    fired = {
        check["alertname"]
        for test in yaml.safe_load(tested)["tests"]
        for check in test["alert_rule_test"]
        if check.get("exp_alerts")
    }
    assert fired == set(names)
    assert [name for name in names if f"**{name}**" not in guide] == []
    for rule in alerts():
        assert rule["labels"]["severity"] in ("info", "warning", "critical"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in grafana()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
    ids = [panel["id"] for panel in grafana()["panels"]]
    assert len(set(ids)) == len(ids)
