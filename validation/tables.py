"""The tables of validation, each schema written once: scores of one model, drift of two, rows of a run.

Reading, writing, the documentation table and test data come from these objects; `doc` says what is meant.
"""

from __future__ import annotations

import pyarrow as pa


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _maybe(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return _field(name, kind, doc, nullable=True)


PROBES = pa.schema(
    [
        _field("probe_id", pa.string(), "digest of the probe's content: equal in all releases"),
        _field("correction_id", pa.string(), "the correction that is tested; empty for fixed and capability"),
        _field("kind", pa.string(), "rewrite, paraphrase, question, chat, locality, fixed or capability"),
        _field("form", pa.string(), "how it is asked: plain, paraphrase, question or chat"),
        _field("prompt", pa.string(), "as the model reads it; of a chat, what the user says"),
        _field("expected", pa.string(), "the right continuation"),
        _maybe("other", pa.string(), "the continuation it competes with"),
        _field("subject", pa.string(), "of the correction"),
    ]
)

SCORES = pa.schema(
    [
        _field("probe_id", pa.string(), "the probe"),
        _field("logp_expected", pa.float64(), "nats, mean over the tokens of the expected continuation"),
        _maybe("logp_other", pa.float64(), "the same of the competing continuation"),
        _field("tokens", pa.int32(), "of the expected continuation"),
        _maybe("tokens_other", pa.int32(), "of the competing continuation"),
        _field("rank", pa.int32(), "of the first expected token; 1 is what the model says"),
        _field("says", pa.string(), "greedy continuation, as many tokens long as the expected one"),
        _field("begins", pa.bool_(), "greedy decoding begins with the expected continuation"),
        _field("top", pa.string(), "the likeliest next token"),
        _maybe(
            "answer", pa.string(), "greedy continuation to its natural stop; null where none is asked for"
        ),
        _maybe("said", pa.bool_(), "the answer says the target or an alias (validation.answers)"),
        _maybe("contains", pa.bool_(), "the target or an alias stands in the answer, as whole words"),
        _maybe("exact", pa.bool_(), "the answer is the target or an alias and nothing else"),
        _maybe("old", pa.bool_(), "the old answer stands in the answer; null where none is known"),
    ]
)

DRIFT = pa.schema(
    [
        _field("probe_id", pa.string(), "digest of the token sequence"),
        _field("prompt", pa.string(), "the beginning of its text"),
        _field("tokens", pa.int32(), "predicted tokens: the sequence's length less one"),
        _field("logp_before", pa.float64(), "nats, mean over the predicted tokens, under the base"),
        _field("logp_after", pa.float64(), "the same under the candidate"),
        _field("kl", pa.float64(), "nats, KL(base || candidate) of the next token, mean over positions"),
    ]
)

ROWS = pa.schema(
    [
        _field("run_id", pa.string(), "the run that scored it"),
        _maybe("release", pa.int32(), "the release it belongs to; null when none was published"),
        _field("model", pa.string(), "the model's name in the fleet"),
        _field("scored_at", pa.timestamp("us", tz="UTC"), "when the run scored"),
        _field(
            "correction_id",
            pa.string(),
            "the correction that is tested; empty for fixed, capability and drift",
        ),
        _field("probe_id", pa.string(), "digest of the probe's content: equal in all releases"),
        _field(
            "kind", pa.string(), "rewrite, paraphrase, question, chat, locality, fixed, capability, drift"
        ),
        _maybe("form", pa.string(), "how it is asked: plain, paraphrase, question or chat; null for drift"),
        _field("subject", pa.string(), "of the correction"),
        _field("prompt", pa.string(), "as the model reads it; for drift the beginning of the text"),
        _field("expected", pa.string(), "the right continuation"),
        _maybe("other", pa.string(), "the continuation it competes with"),
        _field("tokens", pa.int32(), "of the expected continuation; for drift, predicted tokens"),
        _field("logp_expected_before", pa.float64(), "nats, mean per token, under the base"),
        _field("logp_expected_after", pa.float64(), "nats, mean per token, under the candidate"),
        _maybe("logp_other_before", pa.float64(), "nats, mean per token, under the base"),
        _maybe("logp_other_after", pa.float64(), "nats, mean per token, under the candidate"),
        _maybe("rank_before", pa.int32(), "of the first expected token under the base, from 1"),
        _maybe("rank_after", pa.int32(), "the same under the candidate"),
        _maybe("says_before", pa.string(), "greedy continuation of the base, as long as expected"),
        _maybe("says_after", pa.string(), "the same of the candidate"),
        _maybe(
            "answer_before", pa.string(), "the base's greedy answer to its natural stop, where one is asked"
        ),
        _maybe("answer_after", pa.string(), "the same of the candidate"),
        *(
            _maybe(f"{name}_{side}", pa.bool_(), f"{doc}, {whose}")
            for name, doc in (
                ("said", "the answer says the target or an alias"),
                ("contains", "an accepted answer stands in it, as whole words"),
                ("exact", "the answer is an accepted one and nothing else"),
                ("old", "the old answer stands in it"),
            )
            for side, whose in (("before", "under the base"), ("after", "under the candidate"))
        ),
        _maybe("pass_before", pa.bool_(), "the verdict on the base; null for drift"),
        _maybe("pass_after", pa.bool_(), "the verdict on the candidate; null for drift"),
        _maybe("kl", pa.float64(), "nats per token, KL(base || candidate); drift only"),
    ]
)

VERDICTS = pa.schema(
    [
        _field("run_id", pa.string(), "the run that scored it"),
        _maybe("release", pa.int32(), "the release it belongs to; null when none was published"),
        _field("model", pa.string(), "the model's name in the fleet"),
        _field("scored_at", pa.timestamp("us", tz="UTC"), "when the run scored"),
        _field("gate", pa.string(), "the gate's name"),
        _maybe("figure", pa.float64(), "the candidate's; null when there was nothing to measure"),
        _maybe("low", pa.float64(), "lower end of the figure's 95 % interval"),
        _maybe("high", pa.float64(), "its upper end"),
        _field("threshold", pa.float64(), "what it was held against"),
        _field("passed", pa.bool_(), "whether the candidate passed this gate"),
    ]
)

RELEASES = pa.schema(
    [
        _field("model", pa.string(), "the model's name in the fleet"),
        _field("release", pa.int32(), "its number"),
        _maybe("run_id", pa.string(), "the run that published it; null for the registered base"),
        _field("created_at", pa.string(), "ISO 8601, UTC"),
        _maybe("layer", pa.int32(), "the edited layer; null for the registered base"),
        _field("manifest", pa.string(), "digest of its manifest"),
    ]
)

# Where they lie in the store, before the day.
NIGHTS_PREFIX = "nights/date="
NIGHTS = pa.schema(
    [
        _field("run_id", pa.string(), "the run of the fleet"),
        _field("model", pa.string(), "the model's name in the fleet"),
        _field("host", pa.string(), "the machine it ran on"),
        _field("started_at", pa.timestamp("us", tz="UTC"), "when the run came to this model"),
        _field("ended_at", pa.timestamp("us", tz="UTC"), "when its outcome was known"),
        _field("duration_s", pa.float64(), "seconds between the two"),
        _field("status", pa.string(), "published, unchanged, busy, held or failed"),
        _field("exit_code", pa.int32(), "0, or the kind of the error, as the command line has it"),
        _maybe("error", pa.string(), "why it failed"),
        _maybe("release", pa.int32(), "the release that stands after it"),
        _maybe("new", pa.int32(), "corrections and retracts that were new"),
        _maybe("active", pa.int32(), "corrections in the release"),
        _maybe("quarantined", pa.int32(), "corrections that the gates sent out"),
        _maybe("rejected", pa.int32(), "corrections that this model cannot take"),
        _maybe("computed", pa.int32(), "targets that were computed"),
        _maybe("cached", pa.int32(), "targets that were known"),
        _maybe("short", pa.int32(), "corrections that got less of the edit than they need"),
        _maybe("regressions", pa.int32(), "corrections that passed in an earlier release and fail now"),
        _maybe("bytes", pa.int64(), "of files that the release before has not: what a host pulls"),
        _field("seconds", pa.map_(pa.string(), pa.float64()), "seconds by stage"),
        _field("outcome", pa.string(), "all that the run said of it, JSON"),
    ]
)
