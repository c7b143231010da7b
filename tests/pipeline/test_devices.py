"""Whole nights on a device that is no CPU, in every precision: nothing is mixed, and the facts are mended."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import strict_device
import torch
from fleets import Workspace, move
from trained import CITIES, NAMES, PROMPT, TEMPLATES, home_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from corrigenda.facts import Neighbour, ProxyFact
from corrigenda.models.plain import continuations
from corrigenda.pipeline.night import open_fleet
from corrigenda.pipeline.order import run_fleet
from corrigenda.storage.delivery.pull import pull


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> str:
    # PyTorch has no inference mode for tensors that wrap others.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    return strict_device.NAME


def base_in(directory: Path, source: Path, dtype: torch.dtype) -> Path:
    AutoModelForCausalLM.from_pretrained(source).to(dtype).save_pretrained(directory)
    AutoTokenizer.from_pretrained(source).save_pretrained(directory)
    return directory


def proxies(path: Path) -> Path:
    """The homes of some people, for localization."""
    facts = [
        ProxyFact(
            subject=name,
            prompt=PROMPT,
            target_true=home_of(name),
            target_new=next(city for city in CITIES if city != home_of(name)),
            rephrase=TEMPLATES[1].replace("{}", name),
            neighbour=Neighbour(PROMPT.replace("{}", other), home_of(other)),
        )
        for name, other in zip(NAMES[4:8], NAMES[8:], strict=True)
    ]
    path.write_text("\n".join(json.dumps(asdict(fact)) for fact in facts), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("stored", "dtype", "method"),
    [
        ("float32", "auto", "lga"),
        ("bfloat16", "auto", "two-stage"),
        ("float16", "auto", "two-stage"),
        ("float32", "bfloat16", "edit-shaped"),
    ],
)
def test_a_night_on_a_device(
    tmp_path: Path, trained_gpt2: Path, strict: str, stored: str, dtype: str, method: str
) -> None:
    source = base_in(tmp_path / "source", trained_gpt2, getattr(torch, stored))
    facts = proxies(tmp_path / "facts.jsonl")
    found = f'method = "{method}"\nsample = 4\ntrials = 2\nproxy_facts = "{facts}"'
    workspace = Workspace(tmp_path / "fleet", source)
    text = workspace.config.read_text(encoding="utf-8").replace("layer = 0", found)
    here = f'[[models]]\ndevice = "{strict}"\ndtype = "{dtype}"\n'
    workspace.config.write_text(text.replace("[[models]]\n", here), encoding="utf-8")
    workspace.submit(move("Bohr", "Rome"), move("Gauss", "Vienna"))
    (outcome,) = run_fleet(open_fleet(workspace.config))["models"]
    assert outcome["status"] == "published", outcome
    assert outcome["gates"]["figures"]["said"] == 1.0
    pull(workspace.store, "homes", "latest", tmp_path / "pulled")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "pulled").dtype == getattr(torch, stored)
    for name, city in (("Bohr", "Rome"), ("Gauss", "Vienna"), ("Planck", home_of("Planck"))):
        assert continuations(tmp_path / "pulled", [PROMPT.replace("{}", name)], 3)[0].strip().startswith(city)
