"""What README, ARCHITECTURE and docs name exists: files, settings, commands, make targets, paths of the API."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from app.access.permissions import policies_of
from app.cli import app as command
from app.settings import environment_names, secret_names

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pages
def test_files_that_are_linked_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))

    local = [target for target in targets if "://" not in target and not target.startswith("/")]

    assert [target for target in local if not (page.parent / target).exists()] == []


@pages
def test_settings_that_are_named_exist(page: Path) -> None:
    """
    Those of tests and benches are read by them, not by Settings.
    """
    known = set(environment_names()) | {f"{name}_FILE" for name in secret_names()}
    ours = re.findall(r"\bARQSCOPE_[A-Z][A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8"))
    elsewhere = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("tests", "bench", "compose")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".sh")
    )

    assert [name for name in set(ours) - known if name not in elsewhere] == []


def spoken(group: object, before: str = "") -> Iterator[str]:
    """Names of all commands below *group*, with those of their groups before them."""
    for name, found in getattr(group, "commands", {}).items():
        yield f"{before}{name}"
        yield from spoken(found, f"{before}{name} ")


@pages
def test_commands_that_are_named_exist(page: Path) -> None:
    known = set(spoken(typer.main.get_command(command)))
    groups = {name.partition(" ")[0] for name in known if " " in name}
    said = re.findall(
        r"(?:\$ |`|^)arqscope ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", page.read_text(encoding="utf-8"), flags=re.M
    )  # fmt: skip

    wanted = {f"{one} {two}" if two and one in groups else one for one, two in said}

    assert wanted - known == set()


@pages
def test_make_targets_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))

    said = set(re.findall(r"(?:\$ |`)make ([a-z][a-z-]*)", page.read_text(encoding="utf-8")))

    assert said - targets == set()


#: what ``{verb}`` stands for
VERBS = ("cancel", "retry", "pause", "acknowledge")


@pages
def test_paths_of_the_api_that_are_named_exist(page: Path) -> None:
    """
    In the one table of who may call what, for the method that is named; one cut short by … is no path.
    """
    said = re.findall(
        r"\b(GET|POST|PUT|PATCH|DELETE) (/[\w{}/.-]*+)(?!…)", page.read_text(encoding="utf-8")
    )

    def exists(method: str, path: str) -> bool:
        plain = [re.sub(r"\{\w+\}", "x", path.replace("{verb}", verb)) for verb in VERBS]
        return any(method in policy.methods for one in plain for policy in policies_of(one))

    ended = [(method, path.rstrip(".")) for method, path in said]
    assert [one for one in ended if not exists(*one)] == []


@pages
def test_modules_that_are_named_exist(page: Path) -> None:
    """
    Written as a path, from the top, from ``app`` or from ``workers``.
    """
    said = re.findall(
        r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|lua|js|css))\b", page.read_text(encoding="utf-8")
    )

    tops = [ROOT, ROOT / "app", ROOT / "workers", ROOT / "tests"]

    assert [name for name in said if not any((top / name).exists() for top in tops)] == []
