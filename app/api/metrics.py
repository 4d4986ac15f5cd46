"""Prometheus: the snapshot at the moment of the scrape, so that a scrape costs Redis nothing."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd
from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector as MetricSource

from app.analyses.percentiles import Histogram
from app.api.access import Caller, Now, Shared
from app.records import bucket_value
from app.server import page_sessions
from app.snapshot import Snapshot

router = APIRouter(tags=["metrics"])

#: causes of dead letters exported at most: a label value each
_MAX_CAUSES: Final = 50
#: queues, and groups of streams, exported at most: what else there is, is in /frames
MAX_LABELS: Final = 200
#: upper bounds of the duration histograms, s
BOUNDS_S: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
_DURATIONS: Final = {
    "wait": "from being due to being started",
    "run": "of runs",
    "e2e": "from being accepted to having ended",
}

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
_STREAM_COUNTERS: Final = {
    "processed": "events handled",
    "dead": "events that became dead letters",
    "unmatched": "events no handler wanted",
}


class _Source(MetricSource):
    def __init__(
        self, snapshot: Snapshot, durations: Mapping[str, Mapping[str, Histogram]]
    ) -> None:
        self._snapshot = snapshot
        self._durations = durations

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the snapshot; unknown numbers are left out."""
        now = self._snapshot
        for column, meaning in _QUEUE_GAUGES.items():
            name = column.replace("oldest_wait_s", "oldest_wait_seconds")
            gauge = GaugeMetricFamily(f"arqscope_queue_{name}", meaning, labels=["queue"])
            for queue, value in zip(*_first(now.queues, "queue", column), strict=True):
                if not math.isnan(value):
                    gauge.add_metric([queue], float(value))
            yield gauge
        for column, meaning in _QUEUE_COUNTERS.items():
            name = column.removesuffix("_total")
            counter = CounterMetricFamily(f"arqscope_queue_{name}", meaning, labels=["queue"])
            for queue, value in zip(*_first(now.queues, "queue", column), strict=True):
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
        yield GaugeMetricFamily(
            "arqscope_sample_duration_seconds",
            "95th percentile of the last minute's samples",
            now.cost_p95_ms / 1000,
        )
        yield GaugeMetricFamily(
            "arqscope_sample_commands", "Redis commands of the sample", float(now.cost_commands)
        )
        yield GaugeMetricFamily(
            "arqscope_page_sessions", "page sessions of this process", float(page_sessions())
        )
        yield from self._histograms()

    def _histograms(self) -> Iterator[Metric]:
        """Durations of what ended since this server began to lead, a minute late."""
        for kind, meaning in _DURATIONS.items():
            family = HistogramMetricFamily(
                f"arqscope_queue_{kind}_seconds", f"seconds {meaning}", labels=["queue"]
            )
            for queue in sorted(self._durations)[:MAX_LABELS]:
                histogram = self._durations[queue].get(kind)
                if histogram:
                    family.add_metric([queue], *_cumulated(histogram))
            yield family

    def _streams(self) -> Iterator[Metric]:
        groups, streams = self._snapshot.groups, self._snapshot.streams
        length = GaugeMetricFamily("arqscope_stream_length", "entries held", labels=["stream"])
        for stream, value in zip(*_first(streams, "stream", "length"), strict=True):
            if not math.isnan(value):
                length.add_metric([stream], float(value))
        yield length
        for column, meaning in _STREAM_COUNTERS.items():
            counter = CounterMetricFamily(f"arqscope_stream_{column}", meaning, labels=["stream"])
            for stream, value in zip(*_first(streams, "stream", column), strict=True):
                if not math.isnan(value):
                    counter.add_metric([stream], float(value))
            yield counter
        for column, meaning in (
            ("lag", "entries the group has not been given"),
            ("pending", "entries given and not acknowledged"),
            ("lag_s", "seconds the oldest entry not given has waited"),
        ):
            name = column.replace("lag_s", "lag_seconds")
            gauge = GaugeMetricFamily(f"arqscope_group_{name}", meaning, labels=["stream", "group"])
            for stream, group, value in zip(
                *_first(groups, "stream", "group", column), strict=True
            ):
                if not math.isnan(value):
                    gauge.add_metric([str(stream), str(group)], float(value))
            yield gauge


def _first(frame: pd.DataFrame, *columns: str) -> list[list[Any]]:
    """Columns of the first rows a family may show."""
    return [frame[column].head(MAX_LABELS).tolist() for column in columns]


def _cumulated(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Prometheus' cumulative buckets and the sum, in seconds; each within BUCKET_ERROR."""
    values = {bucket_value(bucket) / 1000: count for bucket, count in histogram.items()}
    buckets = [
        (str(bound), float(sum(n for value, n in values.items() if value <= bound)))
        for bound in BOUNDS_S
    ]
    buckets.append(("+Inf", float(sum(values.values()))))
    return buckets, sum(value * n for value, n in values.items())


@router.get("/metrics")
async def metrics(now: Now, shared: Shared, _: Caller) -> Response:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Source(now, shared.collector.durations))
    ProcessCollector(registry=registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
