"""The deployment under abuse, rows S19 and S20 of FAULTS.md: the Redis of compose/, its logins, its TLS."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import redis as redis_sync
from arq import create_pool
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, codec_of, enqueue_many
from app.publisher import SyncPublisher
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import unused_port, wait_until
from tests.deployment import ROLES, Deployed
from tests.faults.conftest import Row
from workers.settings import redis_settings

QUEUE = "async-processing"
NOTHING: dict[str, list[Any]] = {role: [] for role in ROLES}
#: what row S20 tries, as commands
FORBIDDEN = {
    "SET": ("SET", "arq:job:planted", "x"),
    "DEL": ("DEL", "arqscope:audit"),
    "EVAL": ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "arq:job:planted"),
    "CONFIG": ("CONFIG", "SET", "maxmemory", "1"),
    "KEYS": ("KEYS", "*"),
    "FLUSHALL": ("FLUSHALL",),
    "REPLICAOF": ("REPLICAOF", "evil.example", "6379"),
}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    made = Deployed(tmp_path_factory.mktemp("deployed"))
    try:
        yield made.start()
    finally:
        made.stop()


def refused(client: Any, *command: str) -> bool:
    """Whether Redis answers NOPERM."""
    try:
        client.execute_command(*command)
    except redis_sync.exceptions.NoPermissionError:
        return True
    return False


@pytest.mark.row("S20")
def test_s20_the_dashboards_login_reads_and_nothing_else(deployed: Deployed, row: Row) -> None:
    """
    Whatever a viewer's dashboard is made to send, Redis refuses what would change or stop anything.
    """
    deployed.reset_denials()
    outcomes: dict[str, int] = {}
    for role in ROLES:
        with deployed.client("dashboard", role) as client:
            outcomes[role] = sum(refused(client, *command) for command in FORBIDDEN.values())
            client.get("arq:job:any")
            client.info("memory")
            sha = client.script_load("return redis.call('SET', KEYS[1], 'x')")
            with pytest.raises(redis_sync.ResponseError, match="can't run this command"):
                client.evalsha(sha, 1, "arq:job:planted")
    noted = min(sum(int(line["count"]) for line in deployed.denials(role)) for role in ROLES)
    row.figure(refused=outcomes, noted=noted)

    assert outcomes == dict.fromkeys(ROLES, len(FORBIDDEN))
    assert noted >= len(FORBIDDEN)
    with deployed.client("admin", "queue") as admin:
        assert admin.exists("arq:job:planted") == 0


@pytest.mark.row("S20")
def test_s20_no_service_may_do_what_is_dangerous(deployed: Deployed, row: Row) -> None:
    """
    Those who write may not reconfigure, list, empty or move a server; who produces sees no secrets.
    """
    dangerous = ("EVAL", "CONFIG", "KEYS", "FLUSHALL", "REPLICAOF")
    tried = {}
    for login in ("worker", "processor", "producer", "operator", "metrics"):
        for role in ROLES:
            with deployed.client(login, role) as client:
                tried[f"{login}@{role}"] = sum(refused(client, *FORBIDDEN[c]) for c in dangerous)
    with deployed.client("producer", "queue") as producer:
        private = [
            refused(producer, "XRANGE", keys.AUDIT, "-", "+"),
            refused(producer, "HGETALL", keys.API_KEYS),
            refused(producer, "GET", keys.SESSION_SECRET),
            refused(producer, "ZRANGE", keys.dead_open(QUEUE), "0", "-1"),
        ]
    with deployed.client("metrics", "queue") as metrics:
        private.append(refused(metrics, "GET", "arq:job:any"))
    row.figure(logins=len(tried), refused=sum(tried.values()), private=sum(private))

    assert tried == dict.fromkeys(tried, len(dangerous))
    assert private == [True] * 5
    with pytest.raises(redis_sync.exceptions.AuthenticationError):
        redis_sync.Redis(port=deployed.ports["queue"]).ping()


def test_everything_works_under_its_own_login(deployed: Deployed) -> None:
    """
    Worker, processors, dashboard and a producer do all their work, and no login was refused anything.
    """
    deployed.reset_denials()
    port = str(unused_port())
    serve = {"API_KEY": "k" * 40, "QUEUE_UI_PORT": port, "MAX_JOB_ATTEMPTS": "1"}
    with contextlib.ExitStack() as stack:
        for login, *command in (
            ("worker", "worker", QUEUE),
            ("processor", "events"),
            ("processor", "dead-letters"),
        ):
            more = {"MAX_JOB_ATTEMPTS": "1", "ARQSCOPE_JOB_EVENTS": "true", "RETRY_DELAY": "100"}
            stack.enter_context(deployed.process(login, *command, **more))
        stack.enter_context(deployed.process("operator", "serve", **serve))
        http = stack.enter_context(
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "k" * 40}, timeout=10
            )
        )
        wait_until(lambda: ok(http, "/health"), 60, "the dashboard is healthy")
        walk(http)
        produce(deployed)
        wait_until(lambda: http.get("/stats").json()[QUEUE]["completed"] >= 3, 30, "jobs completed")
        wait_until(lambda: event_handled(deployed), 30, "the event was handled")
        wait_until(lambda: http.get("/dead-letters").json(), 30, "a dead letter")
        letter = http.get("/dead-letters").json()[0]
        discarded = http.post(f"/dead-letters/{QUEUE}/{letter['id']}/discard", json={"reason": "t"})
        assert discarded.status_code == 200, discarded.text
        assert len(http.get("/workers").json()) >= 3
        refusals = {role: deployed.denials(role) for role in ROLES}

    assert refusals == NOTHING
    for log in deployed.directory.glob("*.log"):
        assert "NOPERM" not in log.read_text(), log.name


def test_a_restart_loads_what_scripts_and_transactions_wrote(deployed: Deployed) -> None:
    """
    Redis 7.0 replays its file as the user `default`: without every right it drops each MULTI without a word
    to anybody but its log.
    """
    produce(deployed)
    for role in ROLES:
        with deployed.client("operator", role) as client, client.pipeline(transaction=True) as pipe:
            pipe.set("arqscope:probe", "1").sadd("arqscope:probes", "a").execute()
        with deployed.client("admin", role) as admin:
            before = contents(admin)
        deployed.processes[role].kill()
        deployed.processes[role].wait(5)
        deployed.start_one(role)
        with deployed.client("admin", role) as admin:
            after = contents(admin)
        log = (deployed.directory / f"data-{role}" / "redis.log").read_text()

        assert {"arqscope:probe", "arqscope:probes"} <= set(before), role
        assert after == before, role
        assert "NOPERM" not in log, role


def contents(client: Any) -> dict[str, Any]:
    """Every key that does not expire, with what it holds."""
    read = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda key: client.lrange(key, 0, -1),
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        "stream": lambda key: client.xrange(key),
    }
    lasting = [key for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
    return {key: read[client.type(key)](key) for key in lasting}


def test_a_viewers_dashboard_shows_everything_and_needs_no_right_to_write(
    deployed: Deployed,
) -> None:
    """
    ARQSCOPE_READ_ONLY with the login `dashboard`: pages and lists answer, and nothing is even tried.
    """
    produce(deployed)
    deployed.reset_denials()
    port = str(unused_port())
    more = {
        "API_KEY": "k" * 40,
        "QUEUE_UI_PORT": port,
        "ARQSCOPE_READ_ONLY": "true",
        "ARQSCOPE_KEEP_HISTORY": "false",
    }
    with (
        deployed.process("dashboard", "serve", **more),
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "k" * 40}, timeout=10
        ) as http,
    ):
        wait_until(lambda: ok(http, "/health/ready"), 60, "the dashboard is healthy")
        wait_until(lambda: ok(http, "/stats"), 30, "the first sample is taken")
        answers = {
            path: http.get(path).status_code
            for path in ("/stats", "/jobs", f"/jobs/{QUEUE}", "/dead-letters", "/streams", "/workers",
                         "/metrics", "/audit", "/frames/queues.json", "/alerts", "/operations")
        }  # fmt: skip
        refusal = http.post(f"/jobs/{QUEUE}", json={"name": "data-sync", "data": {}})
        refusals = {role: deployed.denials(role) for role in ROLES}

    assert answers == dict.fromkeys(answers, 200)
    assert refusal.status_code == 403
    assert refusals == NOTHING


CERTIFICATES = {
    #: name → subject alternative names, first and last day, signed by: ours, or another authority
    "good": ("DNS:localhost,IP:127.0.0.1", "20260101000000Z", "20360101000000Z", "ca"),
    "expired": ("DNS:localhost,IP:127.0.0.1", "20200101000000Z", "20210101000000Z", "ca"),
    "wrong host": ("DNS:elsewhere.example", "20260101000000Z", "20360101000000Z", "ca"),
    "another authority": (
        "DNS:localhost,IP:127.0.0.1",
        "20260101000000Z",
        "20360101000000Z",
        "other",
    ),
    "self-signed": ("DNS:localhost,IP:127.0.0.1", "20260101000000Z", "20360101000000Z", "self"),
}


def sign(deployed: Deployed, kind: str) -> None:
    """Put a certificate of *kind* in the place of the queue server's."""
    made = deployed.compose / "tls" / "made"
    names, first, last, authority = CERTIFICATES[kind]
    work = Path(tempfile.mkdtemp(dir=deployed.directory))
    (work / "index").touch()
    (work / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\nnew_certs_dir={work}\ndatabase={work}/index\nrand_serial=yes\n"
        "default_md=sha256\npolicy=p\nx509_extensions=x\nunique_subject=no\n[p]\ncommonName=supplied\n"
        f"[x]\nsubjectAltName={names}\nextendedKeyUsage=serverAuth\n"
    )

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=work, check=True, capture_output=True)

    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key")
    openssl("req", "-new", "-key", "key", "-subj", "/CN=redis-queue", "-out", "csr")
    signer = {
        "ca": ("-cert", str(made / "ca.crt"), "-keyfile", str(made / "ca.key")),
        "other": ("-cert", "other.crt", "-keyfile", "other.key"),
        "self": ("-selfsign", "-keyfile", "key"),
    }[authority]
    if authority == "other":
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "other.key")
        openssl(
            "req",
            "-x509",
            "-new",
            "-key",
            "other.key",
            "-subj",
            "/CN=arqscope",
            "-out",
            "other.crt",
        )
    openssl("ca", "-batch", "-config", "ca.cnf", "-in", "csr", "-out", "crt", "-notext",
            "-startdate", first, "-enddate", last, *signer)  # fmt: skip
    for name in ("crt", "key"):
        (made / f"redis-queue.{name}").unlink()
        (work / name).rename(made / f"redis-queue.{name}")


async def outcomes_of(settings: Settings) -> dict[str, str]:
    """Whether each kind of client we have gets an answer: ``ok``, or the name of what stopped it."""
    url = settings.url("queue")

    async def ours() -> None:
        client = connect(url, retries=0)
        try:
            await cast(Any, client.ping())
        finally:
            await client.aclose()

    async def arqs() -> None:
        pool = await create_pool(redis_settings(url), retry=0)
        await pool.aclose()

    async def blocking() -> None:  # lease renewal, keys before the server starts
        with redis_sync.Redis.from_url(url, socket_timeout=3) as client:
            await asyncio.to_thread(client.ping)

    found = {}
    for name, attempt in (("asyncio", ours), ("arq", arqs), ("blocking", blocking)):
        try:
            await attempt()
        except (redis_sync.RedisError, OSError) as error:
            found[name] = "refused" if "certificate" in str(error).lower() else f"{error}"
        else:
            found[name] = "ok"
    return found


@pytest.mark.row("S19")
async def test_s19_tls_is_checked(tmp_path: Path, row: Row) -> None:
    """
    A certificate that is not the server's is refused by every client of ours; old TLS and no TLS by the server.
    """
    deployed = Deployed(tmp_path, tls=True)
    made: dict[str, dict[str, str]] = {}
    try:
        for kind in CERTIFICATES:
            sign(deployed, kind)
            if "queue" in deployed.processes:
                deployed.processes["queue"].kill()
                deployed.processes["queue"].wait(5)
            deployed.start("queue")
            given = {"REDIS_QUEUE_URL": deployed.url("worker", "queue", password=False)}
            made[kind] = await outcomes_of(
                Settings.load(given | deployed_tls(deployed), env_file=None)
            )
        port = deployed.ports["queue"]
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", port), 5) as raw,
            pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION") as old_refused,
        ):
            old.wrap_socket(raw)
        with pytest.raises((redis_sync.RedisError, OSError)):
            redis_sync.Redis(port=port, socket_timeout=5).ping()
    finally:
        deployed.stop()
    refused_kinds = sum(set(made[k].values()) == {"refused"} for k in CERTIFICATES if k != "good")
    row.figure(
        refused=refused_kinds + 2, of=len(CERTIFICATES) + 1, old_tls=str(old_refused.value)[:60]
    )

    assert made["good"] == dict.fromkeys(("asyncio", "arq", "blocking"), "ok")
    for kind in set(CERTIFICATES) - {"good"}:
        assert made[kind] == dict.fromkeys(("asyncio", "arq", "blocking"), "refused"), kind


def deployed_tls(deployed: Deployed) -> dict[str, str]:
    """What a service of compose.tls.yaml is given beside its URLs."""
    return {
        "REDIS_PASSWORD_FILE": str(deployed.compose / "secrets" / "redis_worker"),
        "ARQSCOPE_REDIS_CA": str(deployed.compose / "tls" / "made" / "ca.crt"),
    }


def ok(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.HTTPError:
        return False


def walk(http: httpx.Client) -> None:
    """What people and programs ask of the dashboard."""
    job = {"name": "data-sync", "data": {"records": 1, "duration": 1}}
    assert http.post(f"/jobs/{QUEUE}", json=job).status_code == 201
    later = {"name": "data-sync", "data": {}, "options": {"delay": 600_000, "jobId": "later-1"}}
    assert http.post(f"/jobs/{QUEUE}", json=later).status_code == 201
    for path in ("/stats", "/jobs", f"/jobs/{QUEUE}", "/audit", "/metrics", "/streams", "/alerts",
                 "/frames/queues.json", f"/jobs/{QUEUE}/later-1/why", "/foreign", "/operations"):  # fmt: skip
        assert http.get(path).status_code == 200, path
    assert http.post(f"/jobs/{QUEUE}/later-1/cancel").status_code == 200
    for verb in ("pause", "resume"):
        assert http.post(f"/queues/{QUEUE}/{verb}").status_code == 200
    event = {"type": "user.created", "data": {"email": "a@example.com"}, "userId": "u1"}
    assert http.post("/events", json=event).status_code in (200, 201)
    said = http.post("/notifications/user:u1", json={"message": "hello"})
    assert said.status_code in (200, 201), said.text


def produce(deployed: Deployed) -> None:
    """A service of the user's own, with the login `producer`: three good jobs, one bad, an event."""
    settings = Settings.load(deployed.environment("producer"), env_file=None)

    async def run() -> None:
        queue: Redis = connect(settings.url("queue"))
        jobs = [{"records": n, "duration": 1} for n in range(3)]
        jobs.append({"shouldFail": True, "error": "PermissionError: no scope", "duration": 1})
        requests = [JobRequest(name="data-sync", args=(data,)) for data in jobs]
        try:
            await enqueue_many(queue, QUEUE, requests, codec=codec_of(settings))
        finally:
            await queue.aclose()

    asyncio.run(run())
    with SyncPublisher(settings) as publisher:
        publisher.user_event("created", "u2", {"email": "b@example.com"})
        publisher.notify_user("u2", "welcome")


def event_handled(deployed: Deployed) -> bool:
    with deployed.client("admin", "streams") as client:
        return int(client.hget(keys.event_totals("pyairtable-events"), "processed") or 0) >= 2
