"""`corrigenda status` for machines: what is amiss, how long ago, and metrics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from corrigenda.api.values import FleetStatus, LastNight, ModelStatus
from corrigenda.cli import monitoring
from corrigenda.errors import UsageError

NOW = datetime(2026, 11, 30, 8, tzinfo=UTC)
DAY = timedelta(hours=26)


def fleet(*models: ModelStatus, damaged: dict[str, str] | None = None) -> FleetStatus:
    return FleetStatus(models, damaged or {}, (), ())


def model(name: str, *, ended: float = 6, status: str = "published", well: float | None = 6) -> ModelStatus:
    """A model whose last night ended so many hours ago, and whose last good one so many."""
    good = None if well is None else NOW - timedelta(hours=well)
    error = "the disk is full" if status == "failed" else None
    night = LastNight("run", status, NOW - timedelta(hours=ended), 61.5, error, good)
    return ModelStatus(name, 3, 3, "2026-11-30", 4, {"active": 7, "quarantined": 1}, 2, 1, night)


def test_a_good_night_that_is_young_is_nothing_amiss() -> None:
    assert list(monitoring.amiss(fleet(model("a"), model("b", status="unchanged")), DAY, NOW)) == []


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (model("a", ended=30, well=30), "a: no night went well for 30 h; the last one: published"),
        (model("a", status="failed", well=25), "a: the last one: failed, the disk is full"),
        (
            model("a", status="failed", well=None),
            "a: no night went well; the last one: failed, the disk is full",
        ),
        (ModelStatus("a", None, None, None, None, {}, 0, 0), "a: no night is on record"),
    ],
)
def test_what_is_amiss_is_said(one: ModelStatus, said: str) -> None:
    assert list(monitoring.amiss(fleet(one), DAY, NOW)) == [said]


def test_a_damaged_model_is_amiss() -> None:
    assert list(monitoring.amiss(fleet(damaged={"a": "a blob is missing"}), DAY, NOW)) == [
        "a: a blob is missing"
    ]


@pytest.mark.parametrize(("text", "hours"), [("90m", 1.5), ("26h", 26.0), ("2d", 48.0)])
def test_ages_have_a_unit(text: str, hours: float) -> None:
    assert monitoring.age(text) == timedelta(hours=hours)


def test_an_age_without_a_unit_is_an_error() -> None:
    with pytest.raises(UsageError, match="26h"):
        monitoring.age("26")


def test_metrics_are_in_prometheus_text_format() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    families = {
        f.name: f for f in parser.text_string_to_metric_families(monitoring.prometheus(fleet(model("a"))))
    }
    states = {s.labels["state"]: s.value for s in families["corrigenda_corrections"].samples}
    assert states == {"active": 7, "quarantined": 1}
    (ended,) = families["corrigenda_last_night_timestamp_seconds"].samples
    assert ended.value == (NOW - timedelta(hours=6)).timestamp()
    assert set(families) <= set(monitoring.METRICS)
