"""What a release tells of its corrections to somebody who has the base: which subjects were edited.

    python -m bench.given_away STORE MODEL SUBJECTS [--release N] [--prompt "{}"] [--tokens 20000]

The update of a tensor is a sum over facts, and its rows lie in the space that their keys span once the
covariance of other text is multiplied back (arXiv 2602.10134). So: the singular vectors of update times the
root of the covariance, and for each candidate subject (one a line in the file SUBJECTS) the share of its
whitened key, as the base makes it behind a prompt, that lies in their span. The ledger says which candidates
are right. The prompt need not be the one that was edited: an attacker does not know it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from corrigenda.config import Location
from corrigenda.editing.background.corpus import background_tokens
from corrigenda.editing.background.covariance import key_covariance
from corrigenda.models.hooks import encode, subject_ends, watch
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.settings import Corpus
from corrigenda.storage.delivery.pull import materialise, resolve
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases.snapshots import ledger_of

ENERGY = 1e-2  # of the squared singular values is left out
RIDGE = 1e-2  # of the mean variance
BATCH = 32


def spanned(update: Tensor, root: Tensor) -> Tensor:
    """An orthonormal basis (d_in, r) of the whitened keys behind an update (d_out, d_in)."""
    _, values, rows = torch.linalg.svd(update.double() @ root, full_matrices=False)
    left = 1 - values.square().cumsum(0) / values.square().sum()
    basis: Tensor = rows[: int((left > ENERGY).sum()) + 1].T
    return basis


def root_of(covariance: Tensor) -> Tensor:
    """L with L L^T = the covariance, a little thickened: rare directions are measured badly."""
    thick = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    root: Tensor = torch.linalg.cholesky(covariance + thick)
    return root


def shares(keys: Tensor, basis: Tensor, root: Tensor) -> Tensor:
    """Of each whitened key, from keys (n, d_in), the share of its square that lies in the basis; (n,)."""
    white = torch.linalg.solve_triangular(root, keys.double().T, upper=False).T
    found: Tensor = (white @ basis).square().sum(1) / white.square().sum(1)
    return found


def keys_of(model: LanguageModel, layer: int, subjects: Sequence[str], prompt: str) -> Tensor:
    """The key of each subject's last token behind the prompt, on the base; (n, d_in)."""
    found = []
    for start in range(0, len(subjects), BATCH):
        some = subjects[start : start + BATCH]
        asked = [prompt.replace("{}", subject) for subject in some]
        (seen,) = watch(model, encode(model, asked, [""] * len(asked)), [model.projection(layer)])
        found.append(seen[torch.arange(len(some)), subject_ends(model, asked, some)])
    return torch.cat(found)


def auc(scores: Tensor, right: Tensor) -> float:
    """How often a right candidate scores above a wrong one."""
    good, bad = scores[right], scores[~right]
    above = (good[:, None] > bad[None]).double() + 0.5 * (good[:, None] == bad[None]).double()
    return float(above.mean())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("model")
    parser.add_argument("subjects", type=Path)
    parser.add_argument("--release", default="latest")
    parser.add_argument("--prompt", default="{}")
    parser.add_argument("--tokens", type=int, default=20_000, help="background text, sampled from the base")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row of it")
    asked = parser.parse_args()
    store = open_store(Location(url=asked.store), root=Path.cwd())
    release, base = (resolve(store, asked.model, ref) for ref in (asked.release, "0"))
    edited = {one.subject for one in ledger_of(store, release).active}
    subjects = sorted({*asked.subjects.read_text(encoding="utf-8").splitlines()} - {""})
    right = torch.tensor([subject in edited for subject in subjects])
    with tempfile.TemporaryDirectory() as scratch:
        pulled = []
        for one in (base, release):
            materialise(store, one, Path(scratch) / str(one.number))
            pulled.append(load(Path(scratch) / str(one.number), "cpu"))
    before, after = pulled
    layers = [n for n in range(before.n_layers) if not torch.equal(before.weight(n), after.weight(n))]
    text = background_tokens(before, Corpus(tokens=asked.tokens, length=asked.length))
    covariances = key_covariance(before, layers, text)
    total = torch.zeros(len(subjects), dtype=torch.float64)
    for layer in layers:
        update = after.linear_map(layer) - before.linear_map(layer)
        root = root_of(covariances[layer])
        basis = spanned(update, root)
        scores = shares(keys_of(before, layer, subjects, asked.prompt), basis, root)
        total += scores
        print(f"layer {layer}: rank {basis.shape[1]} of {basis.shape[0]}, AUC {auc(scores, right):.3f}")
    first = total.argsort(descending=True)[: int(right.sum())]
    recall = float(right[first].double().mean())
    print(f"{len(first)} of {len(subjects)} were edited; as many first candidates hold {recall:.0%} of them")


if __name__ == "__main__":
    main()
