"""What a snapshot adds up to: the verdict names what is wrong, alerts included."""

import dataclasses
from typing import Any

import pandas as pd

from app import frames
from app.pages import masthead, rail
from app.pages.address import Address
from app.pages.overview import PAGE
from app.pages.scene import Scene
from app.pages.summary import DEMO, verdict
from app.palette import Verdict
from app.settings import Settings
from app.snapshot import Snapshot

NOW = pd.Timestamp("2026-11-23T12:00:00Z").as_unit("us")


def alert(name: str, **more: Any) -> dict[str, Any]:
    told = {"id": name, "kind": "rule", "state": "firing", "severity": "warning", "title": name}
    return told | more


def seen(*alerts: dict[str, Any]) -> Snapshot:
    return dataclasses.replace(
        Snapshot.empty(NOW), number=1, alerts=frames.frame_of(alerts, frames.ALERT_COLUMNS)
    )


def test_an_alert_that_fires_is_named_by_the_verdict_and_counted_in_the_rail():
    """
    The gravest stands first; where it fires is part of the sentence.
    """
    snapshot = seen(
        alert("backlog grows", source="mail"),
        alert("no worker", severity="critical"),
        alert("over", state="acknowledged"),
    )

    assert verdict(snapshot) == (
        Verdict.DEGRADED,
        ["An alert fires: no worker.", "An alert fires on mail: backlog grows."],
    )
    shown = rail.rail(snapshot, Address())
    assert 'Alerts</span><span class="n alarm" title="2 firing">2</span>' in shown
    assert 'href="alerts"' in masthead.health(snapshot)


def test_what_is_silenced_or_only_a_remark_does_not_change_the_verdict_but_is_told():
    """
    A silence that is over silences nothing.
    """
    later, before = (NOW.timestamp() * 1000 + ms for ms in (60_000, -60_000))
    quiet = seen(alert("a", silenced_until=later), alert("b", severity="info"))

    assert verdict(quiet) == (Verdict.OK, [])
    assert "2 alerts fire, but they are silenced or only a remark." in masthead.health(quiet)
    assert verdict(seen(alert("c", silenced_until=before)))[0] is Verdict.DEGRADED


def test_of_many_alerts_some_are_named_and_the_rest_counted():
    """
    The head stays readable in a storm.
    """
    reasons = verdict(seen(*(alert(f"a{n}") for n in range(8))))[1]

    assert len(reasons) == 6
    assert reasons[-1] == "3 more alerts fire."


def test_no_alert_is_no_number_in_the_rail():
    """
    Where nothing fires there is nothing to count.
    """
    assert 'class="n alarm"' not in rail.rail(seen(), Address())


def test_the_overview_counts_every_reason_it_does_not_name():
    """
    Three of ten are named: seven more, not what is left of those the head names.
    """
    storm = seen(*(alert(f"a{n}") for n in range(10)))
    scene = Scene(snapshot=storm, address=Address(), settings=Settings())

    assert verdict(storm, most=3)[1][-1] == "and 7 more"
    assert "<p>and 7 more</p>" in str(PAGE.above(scene))
    assert len(verdict(seen(alert("a"), alert("b"), alert("c")), most=3)[1]) == 3


def test_a_demo_says_that_it_fails_on_purpose_where_it_is_not_well():
    """
    In the head and on the overview; a demo that is well, and what is no demo, say nothing of it.
    """
    ill, well = seen(alert("a")), seen()
    demo = Settings(demo=True)

    assert DEMO in masthead.head(ill, demo, 2)
    assert DEMO in str(PAGE.above(Scene(snapshot=ill, address=Address(), settings=demo)))
    assert DEMO not in masthead.head(well, demo, 2)
    assert DEMO not in masthead.head(ill, Settings(), 2)
    assert DEMO not in str(PAGE.above(Scene(snapshot=ill, address=Address(), settings=Settings())))
