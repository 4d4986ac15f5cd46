"""Who holds append-only files: told by the file itself, not by the path somebody opened it under."""

import os
from pathlib import Path

import pytest

from app.doctor import append_only
from app.errors import ActionRefused


def test_files_a_container_has_open_under_another_path_are_in_use(tmp_path: Path) -> None:
    """
    In its own mount the same file has another name; a fix would copy and change it under a live Redis.
    """
    place = tmp_path / "data" / "appendonlydir"
    place.mkdir(parents=True)
    part, elsewhere = place / "appendonly.aof.1.incr.aof", tmp_path / "elsewhere"
    part.write_bytes(b"")
    os.link(part, elsewhere)

    with (
        elsewhere.open("rb"),
        pytest.raises(ActionRefused, match=f"process {os.getpid()} .*stop that Redis first"),
    ):
        append_only.fix(tmp_path / "data")

    assert append_only._holder(place) is None
