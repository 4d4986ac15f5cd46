"""Charts, pages and the line magic in a notebook."""

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.notebook import Scope, connect
from app.settings import Settings
from tests.conftest import wait_until
from tests.integration.scope_rig import (  # noqa: F401 - fixtures
    QUEUE,
    queue_server,
    scope,
)
from tests.waiting import until


async def test_a_chart_follows_the_deployment(settings: Settings, queue_server: Any) -> None:
    with connect(settings, sample_interval_s=0.1, keep_history=False) as scope:
        chart = scope.chart("backlog")
        wait_until(lambda: len(scope.frame("history")) > 3)
        before = len(chart._gallery.source.data["at"]) if chart._gallery.source else 0

        async def moved() -> bool:
            source = chart._gallery.source
            return source is not None and len(source.data["at"]) > before + 2

        await until(moved)

        assert chart.picture().startswith("<svg")
        assert "Backlog" in chart.picture()
        chart.stop()
        with pytest.raises(InvalidRequest, match="no chart 'speed'"):
            scope.chart("speed")


async def test_a_page_is_the_page_of_the_server(scope: Scope) -> None:
    page = scope.page("dead-letters", source=QUEUE)
    try:

        async def shown() -> bool:
            return "TimeoutError" in page.screen.html()

        await until(shown)
        with pytest.raises(InvalidRequest, match="no page 'letters'"):
            scope.page("letters")
        with pytest.raises(InvalidRequest, match="takes no colour"):
            scope.page("queues", colour="red")
    finally:
        page.stop()


def test_the_line_magic_knows_the_scope(scope: Scope) -> None:
    from app.notebook import _magic

    assert _magic("") is scope
    assert len(_magic("dead_letters")) == 6
    assert _magic("jobs async-processing deferred").df()["job_id"].to_list() == ["later"]
    with pytest.raises(InvalidRequest, match="no column 'dead_leters'"):
        _magic("dead_leters")
    with pytest.raises(InvalidRequest, match="not understood"):
        _magic("please help me")


def test_the_extension_adds_the_magic(scope: Scope) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.run_line_magic("load_ext", "app.notebook")

        assert shell.run_line_magic("arqscope", "queues").df()["queue"].tolist()
    finally:
        InteractiveShell.clear_instance()
