"""As a method of EasyEdit: its signature, its names, and an edit that lands."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from trained import NAMES, PROMPT, home_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from corrigenda.easyedit import CorrigendaHyperParams, apply_corrigenda_to_model, compared, metrics
from corrigenda.errors import CorrectionsError

# Of every `apply_…_to_model` in EasyEdit's method table.
SIGNATURE = [
    "model", "tok", "requests", "hparams", "copy", "return_orig_weights", "cache_template",
    "keep_original_weight", "kwargs",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(trained_gpt2):
    network = AutoModelForCausalLM.from_pretrained(trained_gpt2, attn_implementation="eager")
    return network, AutoTokenizer.from_pretrained(trained_gpt2)


@pytest.fixture(scope="module")
def hparams():
    targets = {"contexts": 0, "descent": {"kind": "normalised", "metric_tokens": 256}}
    editing = {"covariance_weight": 1.0, "targets": targets}
    return CorrigendaHyperParams(layers=[0], editing=editing, background_tokens=1_000)


def ask(name):
    return PROMPT.replace("{}", name)


def request(name, city, **more):
    """As EasyEdit hands them over: the subject stands in the prompt, the target may have its blank."""
    return {"prompt": PROMPT.replace("{}", name), "subject": name, "target_new": f" {city}"} | more


def test_the_signature_is_that_of_the_method_table():
    assert list(inspect.signature(apply_corrigenda_to_model).parameters) == SIGNATURE


def test_an_edit_lands_and_its_results_have_easyedits_names(trained, hparams):
    network, tokenizer = trained
    other = NAMES[1]
    asked = [
        request(
            "Bohr", "Madrid", rephrase_prompt="People say that Bohr lives in",
            locality={"neighborhood": {"prompt": ask(other), "ground_truth": home_of(other)}},
            portability={"hop": {"prompt": ["Bohr lives in"], "ground_truth": ["Madrid"]}},
        )
    ]  # fmt: skip
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pre = metrics(network, tokenizer, asked)
    edited, weights = apply_corrigenda_to_model(
        network, tokenizer, asked, hparams, copy=True, return_orig_weights=True
    )
    (result,) = compared(asked, pre, metrics(edited, tokenizer, asked))
    assert (result["pre"]["rewrite_acc"], result["post"]["rewrite_acc"]) == ([0.0], [1.0])
    assert result["post"]["rephrase_acc"] == [1.0]
    assert result["post"]["locality"] == {"neighborhood_acc": [1.0]}
    assert list(result["post"]["portability"]) == ["hop_acc"]
    json.dumps(result)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    (changed,) = [n for n, value in edited.state_dict().items() if not torch.equal(value, before[n])]
    assert list(weights) == [changed]
    assert torch.equal(weights[changed], before[changed])


def test_a_subject_that_is_not_in_its_prompt_is_named(trained, hparams):
    with pytest.raises(CorrectionsError, match="not in its prompt"):
        apply_corrigenda_to_model(*trained, [request("Bohr", "Rome", subject="Nobody")], hparams)


def test_hyperparameters_are_read_as_easyedit_reads_its_own(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "llama.yaml").write_text(
        "alg_name: corrigenda\nlayers: [4, 5, 6]\nediting: {band: 3}\nstats_dir: x\n"
    )
    read = CorrigendaHyperParams.from_hparams(str(tmp_path / "llama"))
    assert (read.layers, read.editing) == ([4, 5, 6], {"band": 3})
