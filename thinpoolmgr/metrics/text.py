"""Prometheus' text format: the only user of `prometheus_client`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from thinpoolmgr.core.measures import Measure

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `document` returns."""


class _Measured(Collector):
    """Gives measures as prometheus_client takes them."""

    def __init__(self, measures: tuple[Measure, ...]) -> None:
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        for measure in self._measures:
            # All samples of one measure have the same labels.
            names = list(measure.samples[0][1])
            kind = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
            family = kind(measure.name, measure.help, labels=names)
            for value, labels in measure.samples:
                family.add_metric([_text(labels[name]) for name in names], value)
            yield family


def document(measures: tuple[Measure, ...]) -> bytes:
    """Return `measures` as one document for Prometheus or its node exporter's textfile collector."""
    return bytes(generate_latest(_Measured(measures)))


def _text(value: str) -> str:
    # Lone surrogates stand for bytes of names that are no UTF-8.
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
