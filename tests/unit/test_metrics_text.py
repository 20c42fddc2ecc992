"""The document, byte by byte; `make promtool` lets Prometheus' own tool judge it, too."""

from __future__ import annotations

from cli_support import GOLDEN, golden
from measured import full_look

from thinpoolmgr.core.measures import NAMES, Look, Measure, measures
from thinpoolmgr.metrics.text import document


def test_the_document_of_all_there_is() -> None:
    both = (*measures(full_look(used_data_blocks=19000)), *measures(Look("1", 0.0, 0.0, "CONFIG")))
    whole = {measure.name: measure for measure in reversed(both)}
    text = document(tuple(whole[name] for name in NAMES)).decode()
    golden("metrics", text)
    assert (GOLDEN / "metrics.txt").read_text().endswith("\n")


def test_labels_are_escaped_and_what_is_no_text_is_written_out() -> None:
    measure = Measure("thinpoolmgr_x", "gauge", "Two\nlines.", ((1.5, {"target": 'a"b\\c\nd\udcff'}),))
    assert document((measure,)).decode().splitlines() == [
        r"# HELP thinpoolmgr_x Two\nlines.",
        "# TYPE thinpoolmgr_x gauge",
        'thinpoolmgr_x{target="a\\"b\\\\c\\nd\\\\udcff"} 1.5',
    ]


def test_a_counter_keeps_its_name() -> None:
    counter = Measure("thinpoolmgr_x_total", "counter", "H.", ((2, {"r": "a"}), (3, {"r": "b"})))
    assert document((counter,)).decode() == (
        "# HELP thinpoolmgr_x_total H.\n# TYPE thinpoolmgr_x_total counter\n"
        'thinpoolmgr_x_total{r="a"} 2.0\nthinpoolmgr_x_total{r="b"} 3.0\n'
    )
