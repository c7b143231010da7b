"""The same fact, asked in every form in which a model is served."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_rows import changed, healthy, row, table

from corrigenda.config import Gates
from corrigenda.errors import ConfigError
from corrigenda.validation.encoding import encode_chat, has_chat
from corrigenda.validation.gates import culprits, verdict
from corrigenda.validation.probes import built_in_capability, make_probe, probes_of, read_fixed
from corrigenda.validation.rows import judge
from corrigenda.validation.scoring import reference_score, score

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def chatty(llama):
    """A model that is asked in turns."""
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return replace(llama, network=copy.deepcopy(llama.network).double(), tokenizer=tokenizer)


def kinds(probes):
    return [probe.kind for probe in probes]


def rows_of(model, corrections, **options):
    probes = probes_of(corrections, **options)
    scores = score(model, probes)
    return probes, judge(probes, scores, scores, run_id="r", model="m", scored_at=datetime.now(UTC))


def test_a_question_is_asked_of_every_model_and_a_chat_of_those_with_a_template(
    make_correction, llama, chatty
):
    assert not has_chat(llama.tokenizer)
    assert has_chat(chatty.tokenizer)
    one = [make_correction(0, paraphrases=(), neighborhood=())]
    assert kinds(probes_of(one)) == ["rewrite", "question"]
    assert kinds(probes_of(one, chat=True)) == ["rewrite", "question", "chat"]


def test_a_corrections_own_question_goes_before_the_rules(make_correction):
    one = make_correction(0, question="Where did Ann come into the world?", prompt="{} was born in")
    asked = {probe.kind: probe.prompt for probe in probes_of([one], chat=True)}
    assert asked["chat"] == one.question
    assert asked["question"] == f"Question: {one.question}\nAnswer:"


def test_what_no_rule_fits_is_counted_and_asked_plainly_alone(make_correction, chatty):
    bare = [make_correction(i, prompt="{} somehow", paraphrases=(), neighborhood=()) for i in range(2)]
    known = make_correction(2, prompt="{} was born in", paraphrases=(), neighborhood=())
    _, rows = rows_of(chatty, [*bare, known], chat=True)
    figures = verdict(rows, Gates()).figures
    assert (figures["corrections"], figures["with_question"]) == (3, 1)


def test_a_chat_is_what_the_template_makes_of_it(chatty):
    text = chatty.tokenizer.decode(encode_chat(chatty.tokenizer, "Where?", "Be brief."))
    assert text == "<system>Be brief.</s><user>Where?</s><assistant>"


def test_a_template_that_refuses_a_system_prompt_is_named(chatty):
    tokenizer = copy.deepcopy(chatty.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ConfigError, match="system_prompt"):
        encode_chat(tokenizer, "Where?", "Be brief.")


def test_fast_answers_are_the_plain_answers(make_correction, chatty):
    probes = probes_of([make_correction(i) for i in range(3)], chat=True, system="Be brief.")
    fast, plain = score(chatty, probes), reference_score(chatty, probes)
    for column in ("answer", "said", "contains", "exact", "old", "says"):
        assert fast[column].to_pylist() == plain[column].to_pylist(), column
    asked = [answer for answer in fast["answer"].to_pylist() if answer is not None]
    assert len(asked) == sum(probe.kind != "locality" for probe in probes)


def test_an_answer_goes_on_to_a_stop_and_no_further_than_its_limit(make_correction, chatty, monkeypatch):
    probes = [p for p in probes_of([make_correction(0)], chat=True) if p.kind == "chat"]
    (whole,) = score(chatty, probes)["answer"].to_pylist()
    monkeypatch.setattr("corrigenda.validation.scoring.ANSWER_TOKENS", 4)
    (short,) = score(chatty, probes)["answer"].to_pylist()
    assert len(short) < len(whole)
    assert whole.startswith(short)


def test_what_the_model_answers_is_an_accepted_alias(make_correction, chatty):
    """Whatever it says, word for word: as an alias it is as right as the target would be."""
    one = make_correction(0, neighborhood=())
    _, rows = rows_of(chatty, [one], chat=True)
    said = {r["kind"]: r["answer_after"] for r in rows.to_pylist()}
    assert said["chat"]
    _, again = rows_of(chatty, [replace(one, aliases=(said["chat"],))], chat=True)
    (chat,) = (r for r in again.to_pylist() if r["kind"] == "chat")
    assert (chat["exact_after"], chat["contains_after"], chat["pass_after"]) == (True, True, True)
    assert not next(r for r in rows.to_pylist() if r["kind"] == "chat")["pass_after"]


def test_rows_say_the_form(make_correction, chatty):
    _, rows = rows_of(chatty, [make_correction(0)], chat=True)
    forms = {r["kind"]: r["form"] for r in rows.to_pylist()}
    plain = {"rewrite": "plain", "locality": "plain"}
    assert forms == plain | {"paraphrase": "paraphrase", "question": "question", "chat": "chat"}


def with_chats(right, count=20):
    return healthy(count) + [
        row("chat", f"c{i:03}", before=False, after=i < right, said_after=i < right, answer_after="It is.")
        for i in range(count)
    ]


@pytest.mark.parametrize("right, passed", [(10, True), (9, False)])
def test_a_release_that_is_not_right_in_chats_is_stopped(right, passed):
    rows = with_chats(right)
    gate = next(g for g in verdict(table(rows), Gates(min_chat=0.5)).gates if g.gate == "chat")
    assert (gate.figure, gate.passed) == (right / 20, passed)
    named = {c.correction_id for c in culprits(table(rows), Gates(min_chat=0.5)) if c.enough}
    assert len(named) == (0 if passed else 2)


def test_what_was_right_before_in_the_form_that_is_served_is_told():
    """A plain prompt that the base completes wrongly is no error where the model is asked in chats."""
    rows = healthy(4)
    assert verdict(table(rows), Gates()).figures["already_true"] == 0
    rows += [row("chat", f"c{i:03}", before=i < 3) for i in range(4)]
    assert verdict(table(rows), Gates()).figures["already_true"] == 3


# Capability ---------------------------------------------------------------------------------------------


def test_the_built_in_items_are_of_one_kind_and_apart():
    items = built_in_capability()
    assert {item.kind for item in items} == {"capability"}
    assert len({item.probe_id for item in items}) == len(items) >= 150
    assert all(item.other and item.other != item.expected for item in items)


def test_whole_sentences_are_compared_by_their_sum_and_all_else_by_the_mean(llama):
    """A long sentence is never likelier in sum only because each of its tokens is."""
    pair = ("Ann Stone works in Rome and Paris and Oslo and Lima", "Ann Stone")
    for kind in ("capability", "fixed"):
        probes = [make_probe("", kind, "", *pair)]
        scores = score(llama, probes)
        rows = judge(probes, scores, scores, run_id="r", model="m", scored_at=datetime.now(UTC))
        (one,), (mark,) = rows.to_pylist(), scores.to_pylist()
        factors = (mark["tokens"], mark["tokens_other"]) if kind == "capability" else (1, 1)
        assert mark["tokens"] > mark["tokens_other"]
        likelier = mark["logp_expected"] * factors[0] > mark["logp_other"] * factors[1]
        assert one["pass_after"] == likelier


def test_items_of_ones_own_are_read(tmp_path):
    path = tmp_path / "items.parquet"
    made = {
        "prompt": [None, "Two and two are"],
        "expected": ["It rains.", "four"],
        "other": ["It rain.", None],
    }
    pq.write_table(pa.table(made), path)
    one, two = read_fixed(path, "capability")
    assert (one.prompt, one.other, two.other) == ("", "It rain.", None)


def capability(lost, gained=0, count=100):
    return [row("capability", "", i, before=i >= gained, after=i >= lost) for i in range(count)]


def test_a_release_that_can_do_less_is_stopped_whoever_did_it():
    """Perplexity, neighbours and corrections are as they should be."""
    rows = table(healthy() + capability(lost=5))
    result = verdict(rows, Gates())
    assert [gate.gate for gate in result.short] == ["capability_drop"]
    gate = result.short[0]
    assert gate.figure == pytest.approx(0.05)
    assert gate.low <= 0.05 <= gate.high
    assert {c.gate for c in culprits(rows, Gates())} <= {"capability_drop"}


def test_what_is_gained_is_set_off():
    assert verdict(table(capability(lost=5, gained=5)), Gates()).passed


def test_a_gate_says_when_it_cannot_tell():
    few, many = (verdict(table(with_chats(round(0.6 * n), n)), Gates()) for n in (10, 400))
    of_chat = [next(g for g in result.gates if g.gate == "chat") for result in (few, many)]
    assert all(gate.passed for gate in of_chat)
    assert [gate.tells for gate in of_chat] == [False, True]
    assert few.as_json()["intervals"]["chat"] == [of_chat[0].low, of_chat[0].high]


def test_rows_without_the_new_columns_still_count():
    """As the store holds them from before."""
    old = [{k: v for k, v in r.items() if "answer" not in k} for r in changed(healthy(4), "rewrite", "c001")]
    assert verdict(table(old), Gates()).figures["said"] == 1.0
