"""One server for all attacks: what one of them left behind, the last of them finds."""

from collections.abc import Iterator

import pytest

from tests.conftest import start_redis, wait_until
from tests.faults.door_rig import (
    API_KEY,
    Door,
    open_door,
)  # fmt: skip
from tests.serving import stop


@pytest.fixture(scope="package")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    redis = start_redis(tmp_path_factory.mktemp("redis"))
    made = open_door(redis, tmp_path_factory.mktemp("door"))
    with made.redis() as queue:
        queue.set("canary", "untouched")
    wait_until(lambda: made.ask("GET", "/stats", {"X-API-Key": API_KEY}).status == 200, 10)
    yield made
    stop(made.server)
    redis.stop()
