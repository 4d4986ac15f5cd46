"""The shape of the code: names that hide nothing, workers that stay small, documented settings."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from app.settings import environment_names

ROOT = Path(__file__).resolve().parents[2]


def module_names(*packages: str) -> set[str]:
    """Last names of modules, and of the packages they lie in."""
    files = {path for package in packages for path in (ROOT / package).rglob("*.py")}
    return {path.stem for path in files} | {path.parent.name for path in files} - set(packages)


def test_no_module_hides_another():
    """
    ``panel serve app/x.py`` puts app/ first on sys.path, so app/redis.py would replace redis-py.
    """
    taken = sys.stdlib_module_names | packages_distributions().keys() - {"app", "workers"}

    assert (module_names("app", "workers") - {"__init__", "__main__"}) & taken == set()


def test_a_worker_starts_without_the_dashboard():
    """
    Workers stay small: importing them loads neither pandas nor Panel.
    """
    code = "import sys, workers.settings; print(*({'pandas', 'panel', 'bokeh'} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)

    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr[-2000:]


def test_every_module_says_what_it_holds():
    """
    The first line of a module is a docstring.
    """
    silent = [
        str(path.relative_to(ROOT))
        for package in ("app", "workers")
        for path in (ROOT / package).rglob("*.py")
        if path.stat().st_size and not path.read_text(encoding="utf-8").startswith(('"""', 'r"""'))
    ]

    assert silent == []


def test_every_setting_is_in_the_readme():
    """
    A setting nobody can read about does not exist.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [name for name in environment_names() if f"`{name}`" not in readme] == []


def test_every_module_is_on_the_map():
    """
    ARCHITECTURE.md has a table per package, and in it a row per module: none missing, none left over.
    """
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("<!-- map -->")
    tables = re.split(
        r"^\*\*`(\w+(?:/\w+)*)/`\*\*", rest.partition("<!-- end of map -->")[0], flags=re.M
    )

    rows = {
        f"{folder}/{name}"
        for folder, table in zip(tables[1::2], tables[2::2], strict=True)
        for name in re.findall(r"^\| `(\w+)` \|", table, flags=re.M)
    }

    modules = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for package in ("app", "workers")
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    }
    assert (sorted(modules - rows), sorted(rows - modules)) == ([], [])


def test_nothing_is_pinned_to_a_machine():
    """
    constraints.txt holds versions only: no host, no path, no editable.
    """
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if "/" in line or " @ " in line or line.startswith("-")] == []


#: what workers may know of app: the vocabulary and the producers, and the doctor's look before a start
SHARED = {
    "__version__", "alerts", "alerts.rules", "audit", "declarations", "doctor.preflight", "enqueue", "errors", "keys",
    "letters.causes", "letters.fingerprint", "letters.redrive", "letters.spill", "logs",
    "next_jobs", "operations", "operations.drive", "parcels", "payloads.arguments", "payloads.codec", "placement",
    "publisher", "records", "schedules", "sentinels", "settings", "streams.events",
    "streams.notifications", "streams.triggers", "wire.connections", "wire.misfits", "wire.scripts",
}  # fmt: skip


def is_module(name: str) -> bool:
    """Whether names are imported from it, and not modules of it."""
    start = ROOT.joinpath(*name.split("."), "__init__.py")
    return not start.exists() or len(ast.parse(start.read_text(encoding="utf-8")).body) > 1


def test_workers_know_only_the_vocabulary_and_the_producers():
    """
    What workers import of app is a short list; the dashboard's side is not on it.
    """
    imported = {
        name.removeprefix("app.")
        for path in (ROOT / "workers").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "app"
        for name in (
            [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module == "app" or not is_module(node.module)
            else [node.module]
        )
    }

    assert imported - SHARED == set()
