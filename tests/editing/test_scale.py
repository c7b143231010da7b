"""The room of a residual: its length where it counts, its direction alone where a norm stands behind."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny

from corrigenda.editing.targets.scale import Ball, Sphere, room_of, scale_of
from corrigenda.models.language_model import LanguageModel


def drawn(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def gemma() -> LanguageModel:
    return tiny("gemma3_text", dtype=torch.float32)


def test_a_ball_shortens_what_is_too_long_and_nothing_else() -> None:
    value = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    kept = Ball(torch.ones(3)).nearest(value)
    torch.testing.assert_close(kept, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_on_a_sphere_the_norm_behind_shows_the_same_and_the_residual_is_bounded(gemma: LanguageModel) -> None:
    output, far = drawn(4, 32, 0), 30 * drawn(4, 32, 1)
    kept = Sphere(output).nearest(far)
    norm = gemma.post_norm(1)
    assert norm is not None
    torch.testing.assert_close(norm(output + kept), norm(output + far), rtol=1e-4, atol=1e-4)
    assert bool((kept.norm(dim=-1) <= 2.001 * output.norm(dim=-1)).all())
    torch.testing.assert_close((output + kept).norm(dim=-1), output.norm(dim=-1))


def test_scale_is_what_moves_the_hidden_state_by_its_own_length(gemma: LanguageModel) -> None:
    """A short residual across the output moves the normed output by |r| |normed| / |output|."""
    layer, output, hidden = 1, 0.01 * drawn(4, 32, 2), drawn(4, 32, 3)
    norm = gemma.post_norm(layer)
    assert norm is not None
    scale = scale_of(gemma, layer, output, hidden)
    expected = hidden.norm(dim=-1) * output.norm(dim=-1) / norm(output).norm(dim=-1)
    torch.testing.assert_close(scale, expected)
    assert bool((scale < hidden.norm(dim=-1)).all())
    far = scale_of(gemma, layer, output, 1_000 * hidden)
    torch.testing.assert_close(far, 2 * output.norm(dim=-1))


def test_without_a_norm_behind_the_scale_is_the_hidden_norm() -> None:
    model = tiny("llama", dtype=torch.float32)
    hidden = drawn(4, 32, 4)
    scale = scale_of(model, 1, drawn(4, 32, 5), hidden)
    torch.testing.assert_close(scale, hidden.norm(dim=-1))
    room = room_of(model, drawn(4, 32, 5), scale, 0.5)
    assert isinstance(room, Ball)
    torch.testing.assert_close(room.radius, 0.5 * scale)


def test_rows_that_leave_take_their_room_with_them() -> None:
    keep, output, value = torch.tensor([True, False, True]), drawn(3, 8, 6), drawn(3, 8, 7)
    for room in (Ball(torch.tensor([0.1, 0.2, 0.3])), Sphere(output)):
        torch.testing.assert_close(room.select(keep).nearest(value[keep]), room.nearest(value)[keep])
