"""The predictor against the paper's equations in loops, and what must hold of a fresh one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional as F

from stylecli.backbone import row_loras
from stylecli.backbone.linears import Layer
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape, parameters

LAYERS = (Layer("first", 12, 12), Layer("second", 8, 12), Layer("third", 12, 20))
SHAPE = Shape(
    encoder_width=10, width=16, depth=3, heads=2, hidden=24, bottleneck=16, rank=3, query_std=0.5
)


def fresh(shape: Shape = SHAPE, seed: int = 0) -> Predictor:
    predictor = Predictor(shape, LAYERS)
    predictor.reset(Generator().manual_seed(seed))
    return predictor


def lively(shape: Shape = SHAPE, seed: int = 0) -> Predictor:
    """As after training: no matrix is zero, no gain is one."""
    predictor = fresh(shape, seed)
    generator = Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return predictor


def tokens(*sizes: int, seed: int = 2) -> Tensor:
    return torch.randn(*sizes, SHAPE.encoder_width, generator=Generator().manual_seed(seed))


def rms(row: Tensor, gain: Tensor) -> Tensor:
    return row / (row.square().mean() + 1e-6).sqrt() * gain


def by_hand(
    p: Mapping[str, Tensor], shape: Shape, references: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Equations 1, 3 and 4 for one style, a row and a head at a time."""
    rows = [p["queries"].reshape(-1, shape.width)[i] for i in range(6 * shape.rank)]
    for reference in references:
        for token in reference:
            seen = rms(token, p["img_norm.weight"])
            rows.append(p["img_in.weight"] @ seen + p["img_in.bias"])
    for i in range(shape.depth):
        b = {k.removeprefix(f"blocks.{i}."): v for k, v in p.items() if f"blocks.{i}." in k}
        normed = [rms(row, b["norm1.weight"]) for row in rows]
        head = shape.width // shape.heads
        q, k, v = (
            [(b[f"attn.{to}.weight"] @ row).split(head) for row in normed]
            for to in ("to_q", "to_k", "to_v")
        )
        after = []
        for row, asks in zip(rows, q, strict=True):
            parts = []
            for h in range(shape.heads):
                own = rms(asks[h], b["attn.norm_q.weight"])
                scores = torch.stack([own @ rms(x[h], b["attn.norm_k.weight"]) for x in k])
                weights = (scores / math.sqrt(head)).softmax(0)
                parts.append(sum(w * x[h] for w, x in zip(weights, v, strict=True)))
            row = row + b["attn.to_out.weight"] @ torch.cat(parts)
            seen = rms(row, b["norm2.weight"])
            inner = F.silu(b["ff.w1.weight"] @ seen) * (b["ff.w3.weight"] @ seen)
            after.append(row + b["ff.w2.weight"] @ inner)
        rows = after
    hidden = [rms(row, p["norm_out.weight"]) for row in rows[: 6 * shape.rank]]
    taken: dict[int, int] = {}
    found = {}
    for number, layer in enumerate(LAYERS):
        sides = []
        for side, width in enumerate((layer.width_in, layer.width_out)):
            place = taken.get(width, 0)
            taken[width] = place + 1
            c, d = p["heads.down"][2 * number + side], p[f"heads.up.{width}"][place]
            first = (2 * number + side) * shape.rank
            sides.append(torch.stack([d @ (c @ h) for h in hidden[first : first + shape.rank]]))
        found[layer.path] = (sides[0], sides[1].T)
    return found


def test_it_is_what_the_equations_say() -> None:
    predictor, seen = lively(), tokens(2, 2, 3)
    with torch.no_grad():
        factors = predictor.factors(predictor(seen))
        for row in range(2):
            wanted = by_hand(predictor.state_dict(), SHAPE, seen[row])
            for path, (down, up) in wanted.items():
                torch.testing.assert_close(factors.down[path][row], down, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(factors.up[path][row], up, rtol=1e-4, atol=1e-5)


def test_its_tensors_have_the_names_of_the_file_format() -> None:
    block = {
        *("norm1.weight", "norm2.weight", "attn.norm_q.weight", "attn.norm_k.weight"),
        *(f"attn.{name}.weight" for name in ("to_q", "to_k", "to_v", "to_out")),
        *(f"ff.{name}.weight" for name in ("w1", "w2", "w3")),
    }
    assert set(fresh().state_dict()) == {
        *("img_norm.weight", "img_in.weight", "img_in.bias", "queries", "norm_out.weight"),
        *("heads.down", "heads.up.8", "heads.up.12", "heads.up.20"),
        *(f"blocks.{i}.{name}" for i in range(3) for name in block),
    }


def test_a_fresh_one_changes_nothing_and_is_not_dead() -> None:
    predictor = fresh()
    factors = predictor.factors(predictor(tokens(1, 2, 4)))
    for layer in LAYERS:
        assert factors.down[layer.path].any()
        assert not factors.up[layer.path].any()
    assert not predictor.is_dead


def test_one_whose_last_matrices_are_all_zero_is_dead() -> None:
    predictor = fresh()
    with torch.no_grad():
        for up in predictor.heads.up.values():
            up.zero_()
    assert predictor.is_dead


class Bench(torch.nn.Module):
    """Three linear layers, of which only the LoRAs are asked."""

    def __init__(self) -> None:
        super().__init__()
        for layer in LAYERS:
            linear = torch.nn.Linear(layer.width_in, layer.width_out)
            self.add_module(layer.path, linear.requires_grad_(False))

    def loss(self) -> Tensor:
        generator = Generator().manual_seed(5)
        out = [
            self.get_submodule(layer.path)(torch.randn(2, layer.width_in, generator=generator))
            for layer in LAYERS
        ]
        return sum(x.square().mean() for x in out)  # type: ignore[return-value]


def step(predictor: Predictor, bench: Bench) -> dict[str, Tensor]:
    """Gradients of one step of plain descent."""
    predictor.zero_grad()
    factors = predictor.factors(predictor(tokens(2, 2, 3)))
    with row_loras.applied(bench, factors, [0, 1]):
        bench.loss().backward()
    found = {name: p.grad.clone() for name, p in predictor.named_parameters()}  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.sub_(0.1 * parameter.grad)  # type: ignore[operator]
    return found


def test_at_first_only_the_last_matrices_of_b_learn_and_then_everything_does() -> None:
    predictor, bench = fresh(), Bench()
    first = step(predictor, bench)
    # Of width 12: A of the first, B of the first and of the second, A of the third.
    assert [bool(row.any()) for row in first.pop("heads.up.12")] == [False, True, True, False]
    assert [bool(row.any()) for row in first.pop("heads.up.8")] == [False]
    assert [bool(row.any()) for row in first.pop("heads.up.20")] == [True]
    assert not any(gradient.any() for gradient in first.values())
    second = step(predictor, bench)
    assert all(gradient.any() for gradient in second.values())
    for name in ("heads.up.12", "heads.up.8", "heads.up.20", "heads.down"):
        assert all(row.any() for row in second[name])
    assert all(parameter.grad is None for parameter in bench.parameters())


@given(st.integers(0, 2**16), st.permutations(range(4)))
def test_references_are_a_set(seed: int, order: list[int]) -> None:
    predictor, seen = lively(), tokens(1, 4, 3, seed=seed)
    with torch.no_grad():
        one, other = predictor(seen), predictor(seen[:, order])
        changed = seen.clone()
        changed[:, 0] += 1
        assert (predictor(changed) - one).abs().max() > 1e-3
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@given(st.integers(0, 2**16), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_what_is_masked_could_be_anything(seed: int, counts: list[int]) -> None:
    predictor = lively()
    seen = tokens(len(counts), 4, 3, seed=seed)
    there = torch.arange(4) < torch.tensor(counts)[:, None]
    seen[~there] = 1e4
    with torch.no_grad():
        masked = predictor(seen, there)
        for row, count in enumerate(counts):
            alone = predictor(seen[row : row + 1, :count])[0]
            torch.testing.assert_close(masked[row], alone, rtol=1e-5, atol=1e-5)


def test_no_reference_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no reference"):
        fresh()(tokens(1, 0, 3))
    with pytest.raises(ValueError, match="no reference"):
        fresh()(tokens(2, 2, 3), torch.tensor([[True, False], [False, False]]))


def effective_rank(rows: Tensor) -> float:
    """Of k directions, how many are in use: the exponential of the entropy of their energies."""
    energies = torch.linalg.svdvals(rows.double()).square()
    share = energies / energies.sum()
    return math.exp(-float((share * share.log()).sum()))


def rank_of_a_fresh_one(std: float, depth: int) -> float:
    """The mean over layers, at k = 4."""
    shape = Shape(
        encoder_width=10,
        width=128,
        depth=depth,
        heads=2,
        hidden=384,
        bottleneck=32,
        rank=4,
        query_std=std,
    )
    # Rows of a dozen numbers could not be far apart.
    layers = [Layer(str(number), 96, 96) for number in range(3)]
    predictor = Predictor(shape, layers)
    predictor.reset(Generator().manual_seed(0))
    with torch.no_grad():
        down = predictor.factors(predictor(tokens(4, 2, 16))).down
    ranks = [effective_rank(rows) for layer in layers for rows in down[layer.path]]
    return sum(ranks) / len(ranks)


def test_queries_begin_far_enough_apart_for_every_row_of_a_lora_to_count() -> None:
    assert rank_of_a_fresh_one(0.5, depth=14) >= 0.7 * 4
    # As such values usually begin: attention makes them more alike, block by block.
    assert rank_of_a_fresh_one(0.02, depth=14) < 0.5 * 4


def test_frugal_blocks_have_the_same_gradients() -> None:
    found = []
    for is_frugal in (False, True):
        predictor = lively()
        predictor.is_frugal = is_frugal
        predictor(tokens(2, 2, 3)).square().sum().backward()
        found.append([parameter.grad for parameter in predictor.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_under_autocast_the_heads_stay_float32() -> None:
    predictor, seen = lively(), tokens(1, 2, 3)
    with torch.no_grad():
        exact = predictor(seen)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = predictor(seen)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_a_factor_of_b_moves_by_about_the_step_times_the_bottleneck() -> None:
    """Why large presets need a small rate: Adam's first step moves every number by the rate."""
    predictor, rate = fresh(), 1e-3
    step(predictor, Bench())
    predictor = fresh()
    optimizer = torch.optim.Adam(predictor.parameters(), lr=rate)
    factors = predictor.factors(predictor(tokens(1, 2, 3)))
    bench = Bench()
    with row_loras.applied(bench, factors, [0, 0]):
        bench.loss().backward()
    optimizer.step()
    with torch.no_grad():
        moved = predictor.factors(predictor(tokens(1, 2, 3))).up["third"].abs().max()
    assert 0.3 * 16 * rate < moved < 3 * 16 * rate


def test_the_formula_counts_what_there_is() -> None:
    assert parameters(SHAPE, LAYERS) == sum(p.numel() for p in fresh().parameters())


def test_sizes_that_cannot_be_are_refused() -> None:
    said = SHAPE.to_json()
    with pytest.raises(ValueError, match="multiple"):
        Shape.from_json({**said, "heads": 3})
    with pytest.raises(ValueError, match="bottleneck"):
        Shape.from_json({**said, "bottleneck": 11})
