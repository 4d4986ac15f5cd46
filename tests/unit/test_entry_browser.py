"""The entry browser's reading: declared streams only, and nothing asked of Redis for others."""

from typing import Any, cast

import pytest

from app.errors import NotFound
from app.pages import entry_browser
from app.pages.address import Address
from app.pages.scene import Reach
from app.settings import Settings


@pytest.mark.parametrize("name", ["session:secrets", "async-processing", "pyairtable-events2"])
async def test_a_stream_nobody_declared_is_not_read(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """
    An address is typed by anybody; other keys of a shared Redis are nobody's to read here.
    """
    read: list[str] = []

    async def page(_: object, stream: str, *__: Any, **___: Any) -> None:
        read.append(stream)

    class Nothing:
        streams = None

    monkeypatch.setattr(entry_browser, "entries_page", page)
    reach = Reach(
        connections=cast(Any, Nothing()), settings=Settings(), snapshot=cast(Any, None),
        recall=cast(Any, None), ear=cast(Any, None),
    )  # fmt: skip

    with pytest.raises(NotFound):
        await entry_browser.load(reach, Address("streams", {"stream": name}))
    await entry_browser.load(reach, Address("streams", {}))

    assert read == [Settings().stream_name]
