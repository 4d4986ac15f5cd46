"""Two servers for all tests of the API: one open, one with a key."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import RunningRedis, start_redis, wait_until
from tests.serving import KEY, RunningServer, start_server, stop


@pytest.fixture(scope="package")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def unkeyed(
    redis: RunningRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    server = start_server(redis, tmp_path_factory.mktemp("open"))
    yield server
    stop(server)


@pytest.fixture(scope="package")
def keyed(redis: RunningRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = start_server(redis, tmp_path_factory.mktemp("keyed"), API_KEY=KEY)
    yield server
    stop(server)


@pytest.fixture
def api(unkeyed: RunningServer) -> Iterator[httpx.Client]:
    with unkeyed.client() as client:
        wait_until(lambda: client.get("/stats").status_code == 200, 10)
        yield client
