"""Alerts: list, acknowledge, silence, and what rules would have done with the stored history."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app import actions, alerts
from app.alerts.backtest import backtest
from app.alerts.rules import METRICS, alert_rules, load_alert_rules
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.encoded import encoded
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.errors import InvalidRequest, SettingsError
from app.exports.files import records_json

router = APIRouter(tags=["alerts"], route_class=StrictRoute)

AlertId = Annotated[str, Path(pattern=r"[a-z]{1,16}-[0-9a-f]{1,64}")]


class Steering(BaseModel):
    """How to acknowledge or silence an alert."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"seconds": 3600, "note": "deploying"}]}
    )

    seconds: float = Field(default=3600, ge=0, le=alerts.MAX_SILENCE_S, description="of silence")
    note: str = Field(default="", max_length=500)


class Rule(BaseModel):
    """One metric rule, as an entry of [[alerts]] in arqscope.toml."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"metric": "backlog", "above": 1000, "for_s": 120, "source": "async-*"}]
        },
    )

    metric: str = Field(max_length=40)


@router.get("/alerts", response_model=list[alerts.Alert])
async def listed(
    shared: Shared,
    _: Caller,
    state: Annotated[Literal["firing", "acknowledged", "resolved"] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List the alerts, changed last first; those that are over are kept for 7 days."""
    found = await alerts.newest(shared.connections.cache, limit)
    return encoded([alert.to_json() for alert in found if state is None or alert.state == state])


@router.get("/alerts/rules", response_model=answers.MetricRules)
async def rules(shared: Shared, _: Caller) -> Response:
    """List the metric rules in force and the metrics there are."""
    try:
        found = load_alert_rules(shared.settings.config_file)
    except SettingsError as error:
        raise InvalidRequest(str(error), field="alerts", hint="correct arqscope.toml") from error
    return encoded({"rules": list(found), "metrics": dict(METRICS)})


@router.post("/alerts/backtest", response_model=answers.many(answers.FiringRow))
async def tested(asked: Rule, now: Now, _: Caller) -> Response:
    """Say when a rule would have fired over the history kept; nothing is changed."""
    fields: dict[str, Any] = asked.model_dump()
    try:
        rule = alert_rules([fields], "the rule")[0]
    except SettingsError as error:
        raise InvalidRequest(str(error), field="metric") from error
    is_stream = rule.metric in ("lag", "lag_s")
    found = backtest(now.stream_history if is_stream else now.history, [rule])
    return Response(records_json(found), media_type="application/json")


@router.post("/alerts/{alert_id}/{verb}")
async def steer(
    alert_id: AlertId,
    verb: Literal["ack", "silence"],
    shared: Shared,
    caller: Caller,
    asked: Annotated[Steering | None, Body()] = None,
) -> Report:
    """Acknowledge an alert, or silence it for a time (0 s ends a silence)."""
    where = (shared.connections, shared.settings, caller, alert_id)
    wanted = asked or Steering()
    if verb == "ack":
        return report(await actions.acknowledge_alert(*where, note=wanted.note))
    return report(await actions.silence_alert(*where, wanted.seconds, note=wanted.note))
