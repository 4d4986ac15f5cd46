"""What compose/ holds for other programs, judged by their own tools: compose v2, Kubernetes, Prometheus.

`make compose-test` runs it, because the tools are large (Kubernetes' schemas alone are 100 MB): they are installed here,
and nothing is asked of a cluster. CI reads the same files (tests/unit/test_compose, test_kubernetes, test_monitoring).
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment import COMPOSE
from tests.faults.container_engine import PATH, install

TOOLS = ("compose-spec==0.2.1", "kubernetes-validate==1.37.0")
#: the oldest that is still looked after, and the newest the schemas know
KUBERNETES = ("1.30", "1.35")
VARIANTS = (
    "compose.redis-ports.yaml",
    "compose.egress.yaml",
    "compose.sharded.yaml",
    "compose.tls.yaml",
)
#: the last needs all before it
TOGETHER = "compose.tls.yaml compose.sharded.yaml compose.sharded.tls.yaml"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the programs of TOOLS."""
    made = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", made], check=True)
    subprocess.run([made / "bin" / "pip", "install", "--quiet", *TOOLS], check=True, timeout=300)
    return made / "bin"


def plain(name: str) -> dict[str, Any]:
    """A compose file with its variables at their defaults and its anchors resolved."""
    text = (COMPOSE / name).read_text(encoding="utf-8")
    loaded = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$"))
    return {key: value for key, value in loaded.items() if not key.startswith("x-")}


@pytest.mark.parametrize("name", ["compose.yaml", *VARIANTS, "compose.sharded.tls.yaml"])
def test_compose_v2_accepts_the_file(tools: Path, name: str) -> None:
    document = plain(name)
    for below in ("compose.tls.yaml", "compose.yaml"):  # a variant leans on what these declare
        for part in ("networks", "secrets", "volumes"):
            document[part] = plain(below).get(part, {}) | document.get(part, {})
    code = (
        "import sys; from compose_spec import PyCompose; c = PyCompose.from_yaml(sys.stdin.read());"
        " c.validate(); print(len(c.services))"
    )

    done = subprocess.run(
        [tools / "python", "-c", code],
        input=yaml.safe_dump(document), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout.strip()) == (0, str(len(document["services"]))), (
        done.stderr
    )


@pytest.mark.parametrize("names", ["", *VARIANTS, TOGETHER])
def test_docker_compose_1_accepts_the_files(names: str, tmp_path: Path) -> None:
    install()
    copied = Path(shutil.copytree(COMPOSE, tmp_path / "compose"))
    (copied / ".env").touch()
    files = [word for file in ("compose.yaml", *names.split()) for word in ("-f", file)]

    done = subprocess.run(
        ["docker-compose", *files, "config", "--quiet"],
        cwd=copied, env={"PATH": PATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_schemas_accept_the_manifests(tools: Path, version: str) -> None:
    paths = [
        path
        for folder in ("base", "sharded")
        for path in (COMPOSE / "kubernetes" / folder).glob("*.yaml")
        if path.stem != "kustomization"
    ]

    done = subprocess.run(
        [tools / "kubernetes-validate", "--strict", "-k", version, *paths],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert len(re.findall(r"passed for resource", said)) >= 27, said


def test_a_wrong_manifest_is_refused(tools: Path, tmp_path: Path) -> None:
    text = (COMPOSE / "kubernetes" / "base" / "dashboard.yaml").read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("readinessProbe:", "readynessProbe:"))

    done = subprocess.run(
        [tools / "kubernetes-validate", "--strict", "-k", KUBERNETES[0], wrong],
        capture_output=True, check=False,
    )  # fmt: skip

    assert done.returncode != 0


@pytest.fixture(scope="module")
def promtool() -> str:
    install("promtool")
    return "promtool"


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "alerts.yaml"),
        ("check", "config", "--syntax-only", "prometheus.yaml"),
        ("test", "rules", "alerts_test.yaml"),
    ],
)
def test_promtool_accepts(promtool: str, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool, *words],
        cwd=COMPOSE / "prometheus", capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_parses_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    """
    As recording rules, Grafana's variables filled in.
    """
    board = json.loads((COMPOSE / "grafana" / "arqscope.json").read_text(encoding="utf-8"))
    asked = [t["expr"] for panel in board["panels"] for t in panel.get("targets", [])]
    rules = [
        {
            "record": f"panel_{n}",
            "expr": e.replace("$__rate_interval", "1m").replace("$queue", ".*"),
        }
        for n, e in enumerate(asked)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "grafana", "rules": rules}]}))

    done = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("> 900", "> 3600"),
        ("for: 30m", "for: 1m"),
        ("and max by (queue) (increase", "or max by (queue) (increase"),
    ],
)
def test_the_tests_of_the_alerts_can_fail(
    promtool: str, tmp_path: Path, before: str, after: str
) -> None:
    copied = Path(shutil.copytree(COMPOSE / "prometheus", tmp_path / "prometheus"))
    text = (copied / "alerts.yaml").read_text()
    assert before in text
    (copied / "alerts.yaml").write_text(text.replace(before, after))

    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yaml"],
        cwd=copied,
        capture_output=True,
        check=False,
    )

    assert done.returncode != 0
