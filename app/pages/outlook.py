"""The outlook of a queue: when it will be empty at the present rates, and with other workers. Pure."""

import math
from typing import Any

from app import palette
from app.analyses.forecast import Forecast
from app.pages.markup import Html, icon, tag
from app.pages.scene import Scene

#: workers the slider reaches beyond those there are
MORE_WORKERS = 10


def outlook(scene: Scene, queue: dict[str, Any]) -> Html | None:
    """The forecast in a sentence, and a slider that asks what other workers would change."""
    forecast = scene.forecast
    if scene.is_past:
        return None
    if forecast is None:
        return tag("section", tag("span", "Forecast: reading the last half hour …", class_="soft"),
                   class_="panel forecast", aria_label="Forecast", data_key="forecast")  # fmt: skip
    workers = queue["workers"]
    return tag(
        "section", tag("span", "Forecast", class_="soft"), _sentence(forecast, queue["waiting"]), _rates(forecast),
        _slider(scene, workers),
        class_="panel forecast", aria_label="Forecast", data_key="forecast",
    )  # fmt: skip


def _sentence(forecast: Forecast, waiting: float) -> Html:
    if waiting == 0:  # what runs is no backlog: no alarm over a queue that keeps up
        return tag("b", "Empty now.", role="status")
    said = forecast.sentence
    text = said[:1].upper() + said[1:] + "."
    if forecast.drains is False and forecast.backlog:
        return tag(
            "span", icon(palette.ICONS["warn"], 13), " ", text, class_="grows", role="status"
        )
    return tag("b", text, role="status")


def _rates(forecast: Forecast) -> Html | None:
    if math.isnan(forecast.arrivals_per_s):
        return None
    arrive, end = (palette.rate(60 * r) for r in (forecast.arrivals_per_s, forecast.service_per_s))
    return tag(
        "span",
        f"≈ {arrive} arrive and {end} end a minute, from the last {forecast.minutes} minutes stored",
        class_="note",
    )


def _slider(scene: Scene, workers: float) -> Html | None:
    if palette.is_unknown(workers):
        return None
    asked = scene.address.get("workers")
    value = int(asked) if asked.isdecimal() and len(asked) < 5 else round(workers)
    top = max(round(workers) + MORE_WORKERS, value)
    more = value - round(workers)
    word = f"{more:+d}" if more else "as now"
    return tag(
        "label",
        tag("span", "What if: workers"),
        tag("input", type="range", min="0", max=str(top), value=str(value), step="1",
            data_intent="what-if", data_key="what-if", aria_label="Workers, what if"),
        tag("b", f"{value} ({word})"),
    )  # fmt: skip


__all__ = ["outlook"]
