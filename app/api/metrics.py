"""Prometheus: the snapshot at the moment of the scrape, so that a scrape costs Redis nothing."""

import math
from collections.abc import Iterator
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector as MetricSource

from app.api.access import Caller, Now
from app.snapshot import Snapshot

router = APIRouter(tags=["metrics"])

#: causes of dead letters exported at most: a label value each
_MAX_CAUSES: Final = 50

_QUEUE_GAUGES: Final = {
    "waiting": "jobs due and not claimed",
    "deferred": "jobs due later",
    "running": "jobs running now",
    "oldest_wait_s": "seconds the oldest due job has waited",
    "dead_open": "dead letters nobody decided on",
    "dead_retrying": "dead letters being retried",
    "workers": "live workers",
    "slots": "jobs the workers can run at a time",
    "busy": "slots in use",
}
_QUEUE_COUNTERS: Final = {
    "accepted": "jobs accepted",
    "complete": "jobs that ended well",
    "failed": "runs that raised or timed out",
    "retried": "runs scheduled again",
    "dead_total": "jobs that became dead letters",
    "aborted": "jobs aborted",
    "resolved": "dead letters whose retry ended well",
    "discarded": "dead letters given up",
}


class _Source(MetricSource):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the snapshot; unknown numbers are left out."""
        now = self._snapshot
        for column, meaning in _QUEUE_GAUGES.items():
            name = column.replace("oldest_wait_s", "oldest_wait_seconds")
            gauge = GaugeMetricFamily(f"arqscope_queue_{name}", meaning, labels=["queue"])
            for queue, value in zip(now.queues["queue"], now.queues[column], strict=True):
                if not math.isnan(value):
                    gauge.add_metric([queue], float(value))
            yield gauge
        for column, meaning in _QUEUE_COUNTERS.items():
            name = column.removesuffix("_total")
            counter = CounterMetricFamily(f"arqscope_queue_{name}", meaning, labels=["queue"])
            for queue, value in zip(now.queues["queue"], now.queues[column], strict=True):
                if not math.isnan(value):
                    counter.add_metric([queue], float(value))
            yield counter
        causes = GaugeMetricFamily(
            "arqscope_dead_by_cause", "open dead letters", labels=["fingerprint", "error_type"]
        )
        for row in now.causes[now.causes["count"] > 0].head(_MAX_CAUSES).itertuples(index=False):
            causes.add_metric([str(row.fingerprint), str(row.error_type)], float(str(row.count)))
        yield causes
        yield from self._streams()
        up = GaugeMetricFamily("arqscope_redis_up", "whether Redis answers", labels=["role"])
        for role, answers in zip(now.redis["role"], now.redis["up"], strict=True):
            up.add_metric([str(role)], float(bool(answers)))
        yield up
        yield GaugeMetricFamily(
            "arqscope_sample_timestamp_seconds", "time of the sample", now.taken_at.timestamp()
        )

    def _streams(self) -> Iterator[Metric]:
        groups = self._snapshot.groups
        for column, meaning in (
            ("lag", "entries the group has not been given"),
            ("pending", "entries given and not acknowledged"),
        ):
            gauge = GaugeMetricFamily(
                f"arqscope_group_{column}", meaning, labels=["stream", "group"]
            )
            for stream, group, value in zip(
                groups["stream"], groups["group"], groups[column], strict=True
            ):
                if not math.isnan(value):
                    gauge.add_metric([str(stream), str(group)], float(value))
            yield gauge


@router.get("/metrics")
async def metrics(now: Now, _: Caller) -> Response:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Source(now))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
