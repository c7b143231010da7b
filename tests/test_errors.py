"""Errors say what, which and what to do, and survive the journey between processes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from corrigenda import errors
from corrigenda.errors import CorrigendaError, NotFoundError, StorageError, UnknownOutcomeError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CorrigendaError)]


@pytest.mark.parametrize("kind", KINDS)
def test_pickling_keeps_kind_words_and_facts(kind: type[CorrigendaError]) -> None:
    sent = kind("the thing is missing", remedy="Look again", model="m", layer=3)
    got = pickle.loads(pickle.dumps(sent))
    assert type(got) is kind
    assert (got.what, got.remedy, got.facts) == (sent.what, sent.remedy, sent.facts)
    assert str(got) == str(sent)


def test_an_error_reads_what_which_and_what_to_do() -> None:
    fault = NotFoundError("no such release", remedy="`corrigenda log m` lists them", model="m", release=7)
    assert str(fault) == "no such release (model='m', release=7). `corrigenda log m` lists them"


def test_without_facts_there_are_no_parentheses() -> None:
    assert str(StorageError("the store is away", remedy="Try again")) == "the store is away. Try again"


@pytest.mark.parametrize("kind", KINDS)
def test_exit_codes_are_those_of_the_manual(kind: type[CorrigendaError]) -> None:
    assert kind.exit_code in {1, 2, 3, 4, 5, 6, 7}
    assert kind.__doc__


def test_only_faults_of_the_store_may_be_tried_again() -> None:
    retryable = {kind for kind in KINDS if kind.retryable}
    assert retryable == {StorageError, UnknownOutcomeError}


def test_codes_are_those_that_programs_match_on_for_ever() -> None:
    """A code may be added; none is changed, taken away or used twice."""
    assert {kind.code: kind.__name__ for kind in KINDS} == {
        "unexpected": "CorrigendaError",
        "usage": "UsageError",
        "config": "ConfigError",
        "corrections": "CorrectionsError",
        "not-found": "NotFoundError",
        "lost-race": "LostRaceError",
        "busy": "BusyError",
        "held": "HeldError",
        "lost-night": "LostNightError",
        "object-unreadable": "ObjectUnreadableError",
        "gates": "GateError",
        "partial-fleet": "PartialFleetError",
        "setup": "SetupError",
        "storage": "StorageError",
        "unknown-outcome": "UnknownOutcomeError",
        "corrupt": "CorruptBlobError",
        "signature": "SignatureError",
        "edit": "EditError",
        "unsupported-model": "UnsupportedModelError",
    }
