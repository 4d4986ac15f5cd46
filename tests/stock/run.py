"""Run arq's own test-suite: against arq, against our worker, and once more without its log assertions.

The suite comes from arq's source distribution, through pip. Ends with 1 unless exactly the tests of
``differences.py`` fail. Needs a redis-server; about a minute, two the first time.
"""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

from differences import ARQ, DIFFERENCES, LOG_LINES_ONLY  # noqa: E402

PYTHON = HERE / ".venv" / "bin" / "python"
#: arq's test tools of the time of its release, and what our worker imports
REQUIREMENTS = (
    f"arq=={ARQ}",
    "redis[hiredis]>=5.3,<6",
    "pydantic>=2.10,<3",
    "structlog>=25.1",
    "pytest<9",
    "pytest-asyncio<1",
    "pytest-mock",
    "pytest-timeout",
    "dirty-equals",
    "msgpack",
    "pytz",
    "tzdata",
    "watchfiles",
)
#: names the suite gives to what was logged
LOG_NAMES = {"log", "logs", "caplog"}
INI = """[pytest]
asyncio_mode = auto
timeout = 10
filterwarnings =
    error
    ignore::DeprecationWarning
    ignore::ResourceWarning
    ignore::pytest.PytestUnraisableExceptionWarning
"""


def main() -> int:
    redis = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if not redis:
        print("no redis-server on PATH; name one: REDIS_SERVER=…", file=sys.stderr)
        return 2
    _install()
    with tempfile.TemporaryDirectory() as directory:
        suite = _fetch(Path(directory))
        unlogged = _without_log_assertions(suite, Path(directory) / "unlogged")
        total, stock = _failures(suite, redis, ours=False)
        _, verbatim = _failures(suite, redis, ours=True)
        _, silent = _failures(unlogged, redis, ours=True)
    meant = set().union(*DIFFERENCES.values())
    print(f"\narq {ARQ}: {total} tests; {len(stock)} fail on arq's own worker")
    print(f"on ours {len(verbatim)} fail, {total - len(verbatim)} pass")
    print(f"without assertions about log lines {len(silent)} fail, {total - len(silent)} pass\n")
    for row, tests in DIFFERENCES.items():
        print(f"  {row}: {len(tests & silent)}")
    print(f"  log lines alone: {len(verbatim - silent)}\n")
    wrong = [
        *(f"fails on arq itself: {name}" for name in sorted(stock)),
        *(f"fails, but is in no list: {name}" for name in sorted(silent - meant)),
        *(f"is listed, but passes: {name}" for name in sorted(meant - silent)),
        *(
            f"log lines: {name}"
            for name in sorted((verbatim - meant).symmetric_difference(LOG_LINES_ONLY))
        ),
    ]
    print("\n".join(wrong) or "exactly the listed differences")
    return 1 if wrong else 0


def _install() -> None:
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PYTHON.parent.parent)], check=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)


def _fetch(directory: Path) -> Path:
    """arq's tests, and only those: the arq they import is the installed one."""
    pip = [str(PYTHON), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-deps", "--no-binary", ":all:", "--dest", str(directory), f"arq=={ARQ}"]
    subprocess.run([*pip, *wanted], check=True)
    (archive,) = directory.glob("arq-*.tar.gz")
    suite = directory / "suite"
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    (directory / f"arq-{ARQ}" / "tests").rename(_made(suite) / "tests")
    return suite


def _without_log_assertions(suite: Path, copy: Path) -> Path:
    """The same tests without the assertions that look at what was logged; all others stay."""

    class Silence(ast.NodeTransformer):
        def visit_Assert(self, node: ast.Assert) -> ast.stmt:
            names = {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}
            return ast.copy_location(ast.Pass(), node) if names & LOG_NAMES else node

    for source in (suite / "tests").glob("*.py"):
        tree = Silence().visit(ast.parse(source.read_text("utf-8")))
        (_made(copy / "tests") / source.name).write_text(ast.unparse(tree), "utf-8")
    return copy


def _failures(suite: Path, redis: str, *, ours: bool) -> tuple[int, set[str]]:
    """How many tests ran, and which failed, as ``module::test``."""
    (suite / "pytest.ini").write_text(INI, "utf-8")
    report = suite / "report.xml"
    environment = {**os.environ, "PYTHONPATH": str(HERE), "STOCK_REDIS": redis}
    environment |= {"STOCK_OURS": str(ROOT)} if ours else {}
    subprocess.run(
        [
            *(str(PYTHON), "-m", "pytest", "-q", "-p", "plugin", "tests"),
            *(f"--junitxml={report}", "--show-capture=no", "--tb=line"),
        ],
        cwd=suite,
        env=environment,
        check=False,
    )
    cases = list(ET.parse(report).iter("testcase"))
    ran = [case for case in cases if case.find("skipped") is None]
    failed = {
        f"{case.attrib['classname'].rpartition('.')[2]}::{case.attrib['name']}"
        for case in ran
        if case.find("failure") is not None or case.find("error") is not None
    }
    return len(ran), failed


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


if __name__ == "__main__":
    sys.exit(main())
