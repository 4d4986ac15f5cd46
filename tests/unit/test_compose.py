"""What compose/ must be, read as text: no default secret, nothing open, the specification's checks."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from app.declarations import BUILT_IN_QUEUES
from app.embedded import ROLES
from app.settings import Settings, environment_names, secret_names
from tests.deployment import COMPOSE, SERVICES, copy_of_compose

REDIS = set(SERVICES.values())
OURS = {f"worker-{queue.name}" for queue in BUILT_IN_QUEUES} | {
    "event-processor",
    "dlq-processor",
    "queue-processor",
}
#: service → interval and retries the specification gives it
CHECKS = {
    **dict.fromkeys(REDIS, ("10s", 8)),
    **dict.fromkeys(OURS, ("30s", 5)),
    "event-processor": ("30s", 3),
    "dlq-processor": ("30s", 3),
}


def load(name: str, *, defaults: bool = False) -> dict[str, Any]:
    text = (COMPOSE / name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(with_defaults(text) if defaults else text)
    return loaded


def with_defaults(text: str) -> str:
    """With each variable's default in its place."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return dict(load("compose.yaml")["services"])


def seconds(text: str) -> float:
    """Of ``45s`` or ``${NAME:-45s}``."""
    found = re.fullmatch(r"(?:\$\{\w+:-)?(\d+)s\}?", text)
    assert found, text
    return float(found[1])


def test_every_role_has_its_service(services: dict[str, Any]) -> None:
    assert set(services) == REDIS | OURS
    assert set(SERVICES) == set(ROLES)


def test_the_specifications_health_checks(services: dict[str, Any]) -> None:
    found = {
        name: (service["healthcheck"]["interval"], service["healthcheck"]["retries"])
        for name, service in services.items()
    }

    assert found == CHECKS


def test_a_health_check_of_ours_is_the_age_of_the_beat(
    services: dict[str, Any], tmp_path: Path
) -> None:
    """
    Fresh: well; old, or never: ill, and it says why.
    """
    for name in OURS - {"queue-processor"}:
        kind, command = services[name]["healthcheck"]["test"]
        file = services[name]["environment"]["ARQSCOPE_BEAT_FILE"]
        assert (kind, command.count(file)) == ("CMD-SHELL", 1), name
    beat = tmp_path / "beat"

    def check() -> tuple[int, str]:
        words = command.replace(file, str(beat))
        done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    ill = (1, "no heartbeat that Redis took in 20 s\n")
    assert check() == ill
    beat.touch()
    assert check() == (0, "")
    old = time.time() - 21
    os.utime(beat, (old, old))
    assert check() == ill


def test_every_container_is_locked_down(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"privileged", "cap_add", "network_mode", "pid", "devices"}.isdisjoint(service), name
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        assert service["pids_limit"] <= 1024, name
        for volume in service["volumes"]:
            source, _, rest = volume.partition(":")
            assert source[0] != "." or rest.endswith(":ro"), f"{name} may write to {source}"
            assert "docker.sock" not in volume
    assert all(services[name]["user"] == "redis" for name in REDIS)
    containerfile = (COMPOSE / "Containerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER 10001:10001$", containerfile, re.MULTILINE)


def test_only_the_dashboard_is_published_and_only_on_loopback(services: dict[str, Any]) -> None:
    assert load("compose.yaml")["networks"]["inside"] == {"internal": True}
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "queue-processor": ["${QUEUE_UI_BIND:-127.0.0.1}:${QUEUE_UI_PUBLISHED:-8009}:8009"]
    }
    for name in REDIS | OURS - {"queue-processor"}:
        assert services[name]["networks"] == ["inside"], name
    ports = load("compose.redis-ports.yaml")["services"]
    assert {name: service["ports"] for name, service in ports.items()} == {
        "redis": ["127.0.0.1:6382:6379"],
        "redis-streams": ["127.0.0.1:6380:6379"],
        "redis-queue": ["127.0.0.1:6381:6379"],
    }


def test_a_second_queue_server_is_the_first_with_data_of_its_own() -> None:
    """
    compose.sharded.yaml: every process of ours is told of it, logs in as itself, and waits for it.
    """
    document = load("compose.sharded.yaml")
    services = document["services"]
    assert set(services) == OURS | {"redis-queue-2"}
    assert services["redis-queue-2"] == {
        "extends": {"file": "compose.yaml", "service": "redis-queue"},
        "volumes": ["queue-2:/data"],
    }
    assert document["volumes"] == {"queue-2": None}
    whole = load("compose.yaml")["services"]
    for name in OURS:
        assert services[name]["depends_on"] == {"redis-queue-2": {"condition": "service_healthy"}}
        assert set(services[name]["environment"]) == {"REDIS_QUEUE_SHARDS"}
        plain = {
            variable: with_defaults(value)
            for variable, value in {
                **whole[name]["environment"], **services[name]["environment"]
            }.items()
            if "URL" in variable or "SHARDS" in variable
        }  # fmt: skip
        settings = Settings.load(plain, env_file=None)
        assert settings.placement.server_of("event-driven-jobs") == "queue-2"
        home, further = settings.url("queue"), settings.url("queue-2")
        assert further == home.replace("@redis-queue:", "@redis-queue-2:"), name


def merged(*names: str) -> dict[str, Any]:
    """compose files, one over the other as compose does it: lists grow by what has another target."""

    def over(below: Any, above: Any, path: tuple[str, ...] = ()) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            both = {key: over(below[key], above[key], (*path, key)) for key in below.keys() & above}
            return {**below, **above, **both}
        if isinstance(below, list) and path[-1] in ("volumes", "secrets", "ports", "networks"):
            return [*{target(path[-1], one): one for one in [*below, *above]}.values()]
        return above

    def target(kind: str, one: Any) -> str:
        if isinstance(one, dict):
            return str(one["target"])
        return one.split(":")[1] if kind == "volumes" else str(one)

    whole: dict[str, Any] = {}
    for name in names:
        document = load(name, defaults=True)
        for service, text in document["services"].items():
            if "extends" in text:
                own = {key: value for key, value in text.items() if key != "extends"}
                base = load(text["extends"]["file"], defaults=True)["services"][
                    text["extends"]["service"]
                ]
                document["services"][service] = over(base, own)
        whole = over(whole, document)
    return whole


TLS = ("compose.yaml", "compose.tls.yaml")


@pytest.mark.parametrize(
    ("names", "servers"),
    [
        (TLS, REDIS),
        ((*TLS, "compose.sharded.yaml", "compose.sharded.tls.yaml"), REDIS | {"redis-queue-2"}),
    ],
    ids=["three", "and-a-second-queue-server"],
)
def test_with_tls_nothing_speaks_in_the_clear(
    names: tuple[str, ...], servers: set[str], tmp_path: Path
) -> None:
    """
    Every server has a certificate of its own name, which tls/make.sh makes; every process the authority, and no other URL.
    """
    whole = merged(*names)
    services = whole["services"]
    compose = copy_of_compose(tmp_path)
    subprocess.run([compose / "tls" / "make.sh"], check=True, capture_output=True)
    assert set(services) == servers | OURS

    for name, service in services.items():
        sources = {
            (s, s) if isinstance(s, str) else (s["source"], s["target"]) for s in service["secrets"]
        }
        given = {inside: whole["secrets"][source]["file"] for source, inside in sources}
        assert given["ca.crt"] == "./tls/made/ca.crt", name
        if name in servers:
            assert service["command"] == [
                "/etc/redis/redis.conf",
                "--include",
                "/etc/redis/tls.conf",
            ]
            assert "./redis/tls.conf:/etc/redis/tls.conf:ro" in service["volumes"], name
            assert (
                "redis-cli --tls --cacert /run/secrets/ca.crt" in service["healthcheck"]["test"][1]
            )
            assert service["healthcheck"]["retries"] == 8
            for end in ("crt", "key"):
                assert given[f"server.{end}"] == f"./tls/made/{name}.{end}"
                assert (compose / "tls" / "made" / f"{name}.{end}").is_file()
            told = subprocess.run(
                ["openssl", "x509", "-in", compose / "tls" / "made" / f"{name}.crt", "-noout",
                 "-checkhost", name],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert "does match" in told.stdout
            continue
        environment = {
            variable: value
            for variable, value in service["environment"].items()
            if "URL" in variable or "SHARDS" in variable
        }
        assert service["environment"]["ARQSCOPE_REDIS_CA"] == "/run/secrets/ca.crt", name
        settings = Settings.load(environment, env_file=None)
        further = [server.name for server in settings.placement.servers]
        urls = [settings.url(role) for role in (*ROLES, *further)]
        assert {urlsplit(url).hostname for url in urls} == servers, name
        assert {urlsplit(url).scheme for url in urls} == {"rediss"}, name
        assert len({urlsplit(url).username for url in urls}) == 1, name


COMPOSE_STUB = r"""#!/bin/sh
# Says what it was asked, in place of docker compose; what it copies is a folder that looks like Redis' own.
log() { echo "$*" >>"$LOG"; }
case $* in
"config --services") printf '%s\n' $SERVICES ;;
"pause "* | "unpause "*) log "$*" ;;
"exec -T dlq-processor "*) log letters; tar -C "$DATA" -cf - . ;;
"exec -T "*) log "copy $3"; [ "$3" != "$BROKEN" ] || exit 1; cat >/dev/null; tar -C "$DATA" -cf - appendonlydir ;;
"run --rm -T --no-deps --entrypoint sh "*) log "unpack $7"; cat >/dev/null ;;
*) echo "not known: $*" >&2; exit 9 ;;
esac
"""
THREE = "redis redis-streams redis-queue"


def scripted(tmp_path: Path, script: str, services: str, broken: str = "") -> tuple[int, list[str]]:
    """Run a script of compose/ with a stand-in for the engine; its exit code, and what it asked."""
    made = tmp_path / "compose"
    if not made.exists():
        copy_of_compose(tmp_path)
        (tmp_path / "data" / "appendonlydir").mkdir(parents=True)
        (tmp_path / "data" / "appendonlydir" / "appendonly.aof.manifest").touch()
        (tmp_path / "stub").write_text(COMPOSE_STUB)
        (tmp_path / "stub").chmod(0o755)
    log = tmp_path / "log"
    log.write_text("")
    world = {
        **os.environ, "COMPOSE": str(tmp_path / "stub"), "LOG": str(log), "DATA": str(tmp_path / "data"),
        "SERVICES": services, "BROKEN": broken,
    }  # fmt: skip
    done = subprocess.run(
        [made / script, tmp_path / "backup"], env=world, capture_output=True, check=False
    )
    return done.returncode, log.read_text().splitlines()


def test_a_backup_takes_every_queue_server_while_nobody_carries(tmp_path: Path) -> None:
    """
    Streams first; the dead-letter process is paused only where there is something to carry, and never left so.
    """
    sharded = f"{THREE} redis-queue-2 dlq-processor"
    copies = ["copy redis-streams", "copy redis-queue", "copy redis-queue-2", "copy redis"]
    pause, go_on = "pause dlq-processor", "unpause dlq-processor"
    failed = scripted(tmp_path, "backup.sh", sharded, broken="redis-queue-2")
    assert failed[0] != 0
    assert failed[1] == [pause, *copies[:3], go_on]
    shutil.rmtree(tmp_path / "backup")

    assert scripted(tmp_path, "backup.sh", sharded) == (0, [pause, *copies, go_on, "letters"])

    restored = [
        "unpack redis-streams",
        "unpack redis-queue",
        "unpack redis-queue-2",
        "unpack redis",
    ]
    assert scripted(tmp_path, "restore.sh", sharded) == (0, [*restored, "unpack dlq-processor"])
    assert scripted(tmp_path, "restore.sh", THREE) == (2, [])  # a copy nobody would take
    shutil.rmtree(tmp_path / "backup")
    plain = ["copy redis-streams", "copy redis-queue", "copy redis", "letters"]
    assert scripted(tmp_path, "backup.sh", f"{THREE} dlq-processor") == (0, plain)
    assert scripted(tmp_path, "restore.sh", sharded)[1] == [
        *restored[:2], restored[3], "unpack dlq-processor",
    ]  # fmt: skip


def test_who_stops_has_longer_than_the_drain(services: dict[str, Any]) -> None:
    drain_s = Settings().drain_s
    for name in OURS - {"queue-processor"}:
        assert seconds(services[name]["stop_grace_period"]) >= drain_s + 10, name
    assert seconds(services["queue-processor"]["stop_grace_period"]) > 10
    for name in REDIS:
        assert seconds(services[name]["stop_grace_period"]) >= 30


def test_secrets_are_files_and_none_has_a_default(services: dict[str, Any]) -> None:
    for name, service in services.items():
        environment = service.get("environment", {})
        assert not set(environment) & set(secret_names()), name
        for variable, value in environment.items():
            plain = re.sub(r"\$\{.*?\}", "x", str(value))
            assert not re.search(r"://[^@/]*:[^@/]+@", plain), f"{variable} holds a password"
    text = "".join(path.read_text(encoding="utf-8") for path in COMPOSE.glob("*.yaml"))
    assert "requirepass" not in text
    assert not re.search(r"(?i)password:\s*\S*[a-z0-9]{6}", text)
    for declared in load("compose.yaml")["secrets"].values():
        assert declared["file"].startswith("${SECRETS_DIR:-./secrets}/")
    for name in OURS:
        given = {s if isinstance(s, str) else s["source"] for s in services[name]["secrets"]}
        assert not given & {"redis_admin", "redis_metrics", "users_queue"}, name


def test_what_compose_sets_are_settings_we_know(services: dict[str, Any]) -> None:
    known = set(environment_names()) | {f"{name}_FILE" for name in secret_names()}
    for name in OURS:
        assert set(services[name]["environment"]) <= known, name


def test_the_redis_of_each_role_is_configured_for_it() -> None:
    def configuration(role: str) -> dict[str, str]:
        lines = [
            line.split(maxsplit=1)
            for name in ("common", role)
            for line in (COMPOSE / "redis" / f"{name}.conf").read_text().splitlines()
            if line and not line.startswith("#")
        ]
        return {parts[0]: parts[1] for parts in lines}

    found = {role: configuration(role) for role in SERVICES}

    for role, settings in found.items():
        assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec"), role
        assert settings["no-appendfsync-on-rewrite"] == "no", role
        assert settings["protected-mode"] == "yes", role
        assert settings["maxmemory"].endswith("mb"), role
        assert settings["aclfile"] == "/run/secrets/users.acl", role
        for word in ("protected-configs", "debug-command", "module-command"):
            assert settings[f"enable-{word}"] == "no", role
    assert {role: settings["maxmemory-policy"] for role, settings in found.items()} == {
        "queue": "noeviction",
        "streams": "noeviction",
        "cache": "volatile-lru",
    }
    assert found["queue"]["notify-keyspace-events"] == "Kz"


def test_a_container_has_room_for_the_rewrite_of_its_redis(services: dict[str, Any]) -> None:
    sizes = {"m": 1, "g": 1024}
    for role, service in SERVICES.items():
        text = (COMPOSE / "redis" / f"{role}.conf").read_text()
        limit = int(re.search(r"^maxmemory (\d+)mb$", text, re.MULTILINE)[1])  # type: ignore[index]
        given = services[service]["mem_limit"]
        assert int(given[:-1]) * sizes[given[-1]] >= 2 * limit, service


def test_logins_deny_first_and_only_admin_is_dangerous() -> None:
    for role in SERVICES:
        lines = (COMPOSE / "redis" / f"{role}.acl").read_text().splitlines()
        logins = {line.split()[1]: line.split()[2:] for line in lines if line.startswith("user ")}
        # off, but with every right: Redis loads its file as this user (test_deployment has the proof)
        assert logins["default"] == ["off", "resetpass", "~*", "&*", "+@all"]
        for login, rules in logins.items():
            assert "nopass" not in rules, login
            if login not in ("default", "admin"):
                assert f"#@{login}@" in rules
                assert "-@dangerous" in rules, login
                assert not {"+@all", "+eval", "+@scripting", "+@admin"} & set(rules), login


def test_secrets_are_made_once_and_anew_when_asked(tmp_path: Path) -> None:
    made = copy_of_compose(tmp_path)
    secrets = made / "secrets"
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    subprocess.run([made / "secrets.sh"], check=True, capture_output=True)
    again = {path.name: path.read_text() for path in secrets.iterdir()}
    inode = (secrets / "users-queue.acl").stat().st_ino
    subprocess.run([made / "secrets.sh", "rotate", "worker"], check=True, capture_output=True)
    rotated = {path.name: path.read_text() for path in secrets.iterdir()}
    wrong = subprocess.run(
        [made / "secrets.sh", "rotate", "root"], capture_output=True, text=True, check=False
    )

    assert again == before
    changed = {name for name in before if rotated[name] != before[name]}
    assert changed == {"redis_worker", "users-queue.acl", "users-streams.acl", "users-cache.acl"}
    assert (secrets / "users-queue.acl").stat().st_ino == inode
    assert (wrong.returncode, "there is no secret 'root'" in wrong.stderr) == (2, True)
    assert secrets.stat().st_mode & 0o777 == 0o700
    keys = [before[name] for name in before if not name.startswith("users-")]
    assert len(set(keys)) == len(keys) == 9
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in keys)
    everywhere = "".join(before[name] for name in before if name.startswith("users-"))
    assert not re.search(r"@\w+@", everywhere)
    assert not any(key in everywhere for key in keys)
    assert (made / ".env").stat().st_mode & 0o777 == 0o600


def test_what_compose_reads_of_env_is_in_the_template_and_no_setting_of_ours() -> None:
    """
    The containers see .env too, and refuse to start with an ARQSCOPE_ name that they do not know.
    """
    text = "".join(path.read_text(encoding="utf-8") for path in COMPOSE.glob("*.yaml"))
    asked = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    template = (COMPOSE / "env.example").read_text(encoding="utf-8")
    ours = template.partition("# --- read by compose.yaml alone")[2]
    told = dict(re.findall(r"^#(\w+)=(.*)$", ours, re.MULTILINE))

    assert [name for name in asked if name.startswith("ARQSCOPE_")] == []
    assert {name: told[name] for name in asked} == asked
    assert set(told) - set(asked) == {"ARQSCOPE_PAYLOAD_KEY_FILE"}
