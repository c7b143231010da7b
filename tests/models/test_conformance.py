"""Every family by the same rules: what is read fast is what the network reads, an edit is what was solved.

A quarter of the families always; all of them with CORRIGENDA_LONG=1.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from families_page import PAGE, page
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from zoo import FAMILIES, REFUSED, configuration, model_of, network_of

from corrigenda.editing.solve import apply
from corrigenda.editing.solve.closed_form import solve_update
from corrigenda.errors import UnsupportedModelError
from corrigenda.models.encoding import TokenRow
from corrigenda.models.families import refuse_by_configuration
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.models.lower import lookup_keys
from corrigenda.models.plain_rows import finish_plainly, read_plainly
from corrigenda.models.prefill import prefill
from corrigenda.models.prefix_cache import read_openings
from corrigenda.models.structure import layout_of
from corrigenda.models.upper import finish
from corrigenda.storage.delivery.pull import pull
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import publish
from corrigenda.storage.releases.publish import Candidate
from corrigenda.storage.releases.safetensors import RawTensor

LONG = os.environ.get("CORRIGENDA_LONG") == "1"
KINDS = sorted(FAMILIES) if LONG else sorted(FAMILIES)[::4]
# The second is longer than every window of attention there is here; both stand behind openings.
ROWS = [
    TokenRow((3, 4, 5, 6, 7, 8), 3, (9,), 2),
    TokenRow(tuple(range(10, 24)), 9, (30, 31), 3),
    TokenRow((3, 4, 40, 41), 2),
]
TOKENS = torch.arange(2, 16)[None]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return model_of(request.param)


def residuals(model: LanguageModel) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(len(ROWS), model.linear_map(0).shape[0], generator=draw)


def fast(model: LanguageModel, layer: int, rows: list[TokenRow], residual: Tensor) -> list[Tensor]:
    """What leaves the network from each row's lookup on."""
    if model.plain:
        rows = [TokenRow(row.tokens, row.lookup, row.targets) for row in rows]
    openings = read_openings(model, [row.tokens[: row.opening] for row in rows])
    with torch.no_grad():
        states = finish(model, prefill(model, layer, rows, openings), residual)
    return [state[: len(row.tokens) - row.lookup] for state, row in zip(states, rows, strict=True)]


def truth(model: LanguageModel, layer: int, row: TokenRow, residual: Tensor) -> Tensor:
    with torch.no_grad():
        read = read_plainly(model, layer, [row])
        return finish_plainly(model, read, {layer: residual[None]})[0]


def test_a_residual_does_what_it_does_in_the_whole_network_at_every_layer(model: LanguageModel) -> None:
    for layer in range(model.n_layers):
        found = fast(model, layer, ROWS, residuals(model))
        for state, row, residual in zip(found, ROWS, residuals(model), strict=True):
            torch.testing.assert_close(state, truth(model, layer, row, residual), atol=2e-4, rtol=1e-3)


def test_no_residual_changes_nothing(model: LanguageModel) -> None:
    for state, row in zip(fast(model, 1, ROWS, 0 * residuals(model)), ROWS, strict=True):
        with torch.no_grad():
            whole = model.body(input_ids=torch.tensor([row.tokens]), use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(state, whole[row.lookup :], atol=2e-4, rtol=1e-3)


def test_a_batch_is_its_rows_alone(model: LanguageModel) -> None:
    together = fast(model, 1, ROWS, residuals(model))
    for state, row, residual in zip(together, ROWS, residuals(model), strict=True):
        (alone,) = fast(model, 1, [row], residual[None])
        torch.testing.assert_close(state, alone, atol=2e-4, rtol=1e-3)


def test_an_edit_adds_the_residual_at_the_lookup(model: LanguageModel) -> None:
    """One fact, solved for equality: the edited network alone does what base and residual do together."""
    layer, row, residual = 1, ROWS[1], 0.1 * residuals(model)[1]
    with torch.no_grad():
        key = lookup_keys(model, [layer], [row])[0, 0]
        before = truth(model, layer, row, 0 * residual)
    update = solve_update(key[:, None], residual[:, None], torch.eye(len(key)), 1e-6)
    with model.trial({layer: update}):
        gained = lookup_output(model, layer, row)
        after = truth(model, layer, row, 0 * residual)
    torch.testing.assert_close(gained - lookup_output(model, layer, row), residual, atol=1e-4, rtol=2e-3)
    torch.testing.assert_close(truth(model, layer, row, 0 * residual), before)  # the bits came back
    wanted = truth(model, layer, row, residual)
    assert (after[0] - wanted[0]).norm() < 0.5 * (wanted[0] - before[0]).norm() + 1e-4


def lookup_output(model: LanguageModel, layer: int, row: TokenRow) -> Tensor:
    return read_plainly(model, layer, [row]).projected[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_published_is_base_and_edit_and_release_0_is_the_base(kind: str, tmp_path: Path) -> None:
    from tokenizers_of_the_world import tokenizer_of

    network = network_of(kind)
    network.save_pretrained(tmp_path / "base")
    tokenizer_of("byte-level").save_pretrained(tmp_path / "base")
    model = load(tmp_path / "base", "cpu")
    store = LocalStore.open(tmp_path / "store", create=True)
    base = publish.register_base(store, "m", tmp_path / "base", source="here", editable=model.editable)
    name = model.weight_name(1)
    raw = publish.read_tensor(store, base, name)
    edited = apply.tensor_of(raw.data, raw.dtype, raw.shape) + 0.1
    files = publish.replaced_files(
        store, base, {name: RawTensor(raw.dtype, raw.shape, apply.bytes_of(edited))}
    )
    made = publish.stage(store, base, files, Candidate(layer=1), parent=base)
    for ref, wanted in (("0", model), (str(made.number), model.beside({1: edited}))):
        pulled = AutoModelForCausalLM.from_pretrained(
            pull(store, "m", ref, tmp_path / ref).path, attn_implementation="eager"
        )
        with torch.no_grad():
            assert torch.equal(pulled(TOKENS).logits, wanted.network(TOKENS).logits)


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_be_edited_is_refused_with_the_reason(kind: str) -> None:
    config = configuration(kind, **REFUSED[kind][1])
    with pytest.raises(UnsupportedModelError, match=REFUSED[kind][0]):
        refuse_by_configuration(config.to_dict())
        with torch.device("meta"):
            layout_of(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


def test_a_family_said_by_hand_is_believed_and_a_wrong_one_is_not() -> None:
    network = network_of("llama")
    assert layout_of(network, {"projection": "mlp.up_proj"}).projection == "mlp.up_proj"
    with pytest.raises(UnsupportedModelError, match="not every layer has"):
        layout_of(network, {"projection": "mlp.nothing"})


@pytest.mark.skipif(not LONG, reason="all families are made for it: CORRIGENDA_LONG=1")
def test_the_page_of_models_is_what_the_families_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_family_is_one_that_transformers_knows() -> None:
    assert all(AutoConfig.for_model(kind).model_type == kind for kind in FAMILIES)
