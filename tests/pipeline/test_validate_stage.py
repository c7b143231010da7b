"""Regressions are watched for before a release becomes visible, and never in its way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from made_rows import changed, healthy, run

from corrigenda.config import Gates
from corrigenda.pipeline.remarks import remarks_on
from corrigenda.pipeline.validate import Proof, regressions
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import manifests
from corrigenda.storage.releases.manifests import Release
from corrigenda.validation.gates import verdict
from corrigenda.validation.results import append

FAILING = changed(healthy(6), "rewrite", "c003", pass_after=False, says_after="old")


@pytest.fixture
def night(tmp_path):
    """A model with one published release, in which all corrections pass."""
    store = LocalStore.open(tmp_path / "store", create=True)
    append(store, run(1))
    return SimpleNamespace(store=store, name="m")


def release(night, number, parent=None):
    return manifests.write(
        night.store,
        Release(
            model="m", number=number, files={}, created_at="2026-01-02T03:00:00+00:00", parent=parent,
            base={}, layer=3, counts={"run_id": f"run-{number}"},
        ),
    )  # fmt: skip


def watched(night, rows):
    first = release(night, 1)
    made = run(2, rows=rows)
    return regressions(night, release(night, 2, first.digest), Proof({}, made, verdict(made, Gates())))


def test_a_correction_that_passed_before_is_named(night):
    (worse,) = watched(night, FAILING)
    assert (worse["correction_id"], worse["last_passed"], worse["says"]) == ("c003", 1, "old")
    line = next(remarks_on({"status": "published", "regressions": [worse]}))
    assert "c003 passed in release 1" in line
    assert "\n" not in line


def test_where_nothing_got_worse_nothing_is_said(night):
    assert watched(night, healthy(6)) == []


def test_another_models_results_are_no_history(night):
    append(night.store, run(1, model="other", rows=healthy(9)))
    assert [worse["correction_id"] for worse in watched(night, FAILING)] == ["c003"]


def test_damaged_results_hold_no_release_up(night, capsys):
    night.store.create("results/date=2026-01-01/model=m/broken.parquet", b"rubbish")
    assert watched(night, FAILING) == []
    assert "not known" in capsys.readouterr().err
