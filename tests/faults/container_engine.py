"""A container engine of our own: Debian's docker, private socket and data, images made here, nothing pulled.

Needs root on Debian or Ubuntu. ``ARQSCOPE_STANDIN`` may name a folder debootstrap made before (see ``base``).
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

#: program → Debian's package
PACKAGES = {
    "dockerd": "docker.io",
    "docker-compose": "docker-compose",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "promtool": "prometheus",
}
ENGINE = ("dockerd", "docker-compose", "debootstrap", "iptables")
#: what stands in for the images compose.yaml names: Debian's Python 3.11 and Redis 7
STAND_INS = ("python:3.11-slim-bookworm", "redis:7.2-bookworm")
#: not /usr/local: another docker may lie there
PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
_UNWANTED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/lib/apt/lists",
    "var/cache/apt",
)


def install(*wanted: str) -> None:
    """Install Debian's packages of the programs that are missing (the engine's); starts no service."""
    missing = {PACKAGES[n] for n in wanted or ENGINE if not shutil.which(n, path=PATH)}
    if not missing:
        return
    assert os.geteuid() == 0, f"run as root, or install {' '.join(sorted(missing))}"
    policy = Path("/usr/sbin/policy-rc.d")
    mine = not policy.exists()
    if mine:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for words in (["update"], ["install", "-y", "--no-install-recommends", *sorted(missing)]):
            subprocess.run(["apt-get", "-qq", *words], check=True, env=quiet, capture_output=True)
    finally:
        if mine:
            policy.unlink()


class Engine:
    """A running dockerd; everything it keeps lies in *directory*."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "sock"
        self.environment = {
            "PATH": PATH,
            "HOME": str(directory),
            "DOCKER_HOST": f"unix://{self.socket}",
            "COMPOSE_HTTP_TIMEOUT": "180",
        }
        # dockerd leaves its rules behind, among them a FORWARD that drops what others send
        self._rules = subprocess.run(
            ["iptables-save"], env={"PATH": PATH}, check=True, capture_output=True
        ).stdout
        with (directory / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={directory / 'data'}",
                    f"--exec-root={directory / 'exec'}",
                    f"--host=unix://{self.socket}",
                    f"--pidfile={directory / 'pid'}",
                    "--bip=172.31.254.1/24",
                    "--default-address-pool=base=172.31.0.0/17,size=24",
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": PATH},
                start_new_session=True,
            )
        end = time.monotonic() + 60
        while self.docker("info", check=False).returncode:
            if self._daemon.poll() is not None or time.monotonic() > end:
                raise AssertionError((directory / "dockerd.log").read_text()[-2000:])
            time.sleep(0.3)

    def docker(self, *words: str, check: bool = True, limit_s: float = 300) -> Any:
        """Run ``docker words…``; its outcome, text captured."""
        return self.run("docker", *words, check=check, limit_s=limit_s)

    def run(self, *words: str, check: bool = True, limit_s: float = 300, **more: Any) -> Any:
        """Run a command that talks to this engine."""
        environment = self.environment | more.pop("environment", {})
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=limit_s, check=False, **more
        )  # fmt: skip
        assert not check or not done.returncode, (
            f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
        return done

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows about a container or an image."""
        return dict(json.loads(self.docker("inspect", name).stdout)[0])

    def pid_of(self, name: str) -> int:
        """Process id, here, of a container's first process."""
        return int(self.inspect(name)["State"]["Pid"])

    def import_stand_ins(self, base: Path) -> None:
        """Make the images compose.yaml names from a debootstrapped folder."""
        leaving_out = [f"--exclude=./{unwanted}/*" for unwanted in _UNWANTED]
        with subprocess.Popen(
            ["tar", "-C", str(base), *leaving_out, "-c", "."], stdout=subprocess.PIPE
        ) as importing:
            self.run("docker", "import", "-", STAND_INS[0], stdin=importing.stdout)
        assert importing.returncode == 0
        # The official image has /data, and its redis user owns it.
        build = self.directory / "redis"
        build.mkdir()
        (build / "Dockerfile").write_text(
            f"FROM {STAND_INS[0]}\nRUN install -d -o redis -g redis /data && rm -rf /etc/redis/*\n"
        )
        self.docker("build", "-q", "-t", STAND_INS[1], str(build))

    def build(self, tag: str) -> float:
        """Build our image without a network, from wheels fetched here; returns the seconds it took."""
        context = self.directory / "context"
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "app", "workers", "compose", "pyproject.toml", "constraints.txt",
             "README.md", "LICENSE", ".dockerignore"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, tracked.split("\0")):
            target = context / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        fetch_wheels(context / "compose" / "wheels")
        began = time.monotonic()
        self.docker(
            "build", "-q", "-f", str(context / "compose" / "Containerfile"),
            "--build-arg", "OFFLINE=1", "-t", tag, str(context), limit_s=900,
        )  # fmt: skip
        return time.monotonic() - began

    def close(self) -> None:
        """Stop everything, unmount, remove the data."""
        for name in self.docker("ps", "-aq", check=False).stdout.split():
            self.docker("rm", "-f", "-v", name, check=False)
        self.docker("network", "prune", "-f", check=False)
        self._daemon.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._daemon.wait(30)
        if self._daemon.poll() is None:
            os.killpg(self._daemon.pid, signal.SIGKILL)
            self._daemon.wait(10)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted(
            (m for m in mounts if m.startswith(f"{self.directory}/")), reverse=True
        ):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        for name in ("data", "exec", "context"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", "docker0"], check=False, capture_output=True)
        for table in ("filter", "nat"):  # empty first: a table that was empty is not in the text
            for words in (("-F",), ("-X",)):
                subprocess.run(["iptables", "-t", table, *words], env={"PATH": PATH}, check=False)
        subprocess.run(["iptables", "-P", "FORWARD", "ACCEPT"], env={"PATH": PATH}, check=False)
        subprocess.run(["iptables-restore"], input=self._rules, env={"PATH": PATH}, check=False)


def base(directory: Path) -> Path:
    """A Debian with Python and Redis, made by debootstrap: a minute or two, 280 MB."""
    given = os.environ.get("ARQSCOPE_STANDIN")
    if given:
        return Path(given)
    made = directory / "base"
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3-venv,redis-server,ca-certificates",
         "bookworm", str(made)],
        check=True, capture_output=True, timeout=600, env={**os.environ, "PATH": PATH},
    )  # fmt: skip
    return made


def fetch_wheels(into: Path) -> None:
    """Wheels of what we depend on, pinned; Debian's 3.11.2 wants one more than a newer 3.11."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(into)]
    pinned = ["--constraint", str(ROOT / "constraints.txt"), "hatchling", *project["dependencies"]]
    for words in (pinned, ["async-timeout>=4.0.3"]):
        subprocess.run([*pip, *words], check=True, capture_output=True, timeout=600)
