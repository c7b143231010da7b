"""The orchestrator's failures end nothing: what the work did counts."""

from __future__ import annotations

import pytest

from corrigenda.errors import GateError
from corrigenda.tasks.despite import Body, Handover, despite_outages


def away() -> None:
    raise ConnectionError("the API is away")


def test_work_that_was_done_counts_though_its_end_could_not_be_told() -> None:
    calls: list[int] = []
    body = Body(lambda: calls.append(1) or "done")

    def orchestrated() -> None:
        body()
        away()

    assert despite_outages("a stage", orchestrated, body) == "done"
    assert calls == [1]


def test_work_that_could_not_be_begun_is_done_without_leave() -> None:
    assert despite_outages("a stage", away, Body(lambda: "done")) == "done"


def test_an_orchestrator_that_comes_back_is_asked_once_more() -> None:
    asked: list[str] = []
    body = Body(lambda: "done")

    def orchestrated() -> None:
        asked.append("again" if asked else "first")
        away() if len(asked) == 1 else body()

    assert despite_outages("a stage", orchestrated, body, lambda: True) == "done"
    assert asked == ["first", "again"]


def test_a_body_is_handed_to_a_flow_of_this_process_and_to_no_later_one() -> None:
    handed: Handover[str] = Handover("test")
    with handed(Body(lambda: "the caller's")):
        assert handed.body(lambda: "its own")() == "the caller's"
    assert handed.body(lambda: "its own")() == "its own"


def test_what_the_work_raises_is_raised() -> None:
    def fails() -> str:
        raise GateError("the candidate did not pass", remedy="Look at it")

    body = Body(fails)
    with pytest.raises(GateError):
        despite_outages("a stage", body, body)


def test_a_second_try_of_the_orchestrator_s_own_counts() -> None:
    tries: list[int] = []

    def fails_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not now")
        return "done"

    body = Body(fails_once)

    def orchestrated() -> None:
        with pytest.raises(OSError):
            body()
        body()

    assert despite_outages("a stage", orchestrated, body) == "done"
