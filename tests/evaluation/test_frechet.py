"""Distances between sets: what theory says they are, and what other implementations say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor

from stylecli.errors import ItemError
from stylecli.evaluation import frechet
from stylecli.evaluation.frechet import (
    Moments,
    at_least_zero,
    frechet_distance,
    frechet_distance_features,
    kid,
)
from stylecli.evaluation.statistics import jackknife_interval

# (LPIPS, FID, ArtFID) as printed in the papers, by method.
DIFFSTYLER = {
    "DiffStyler": (0.17, 17.85, 22.06),
    "AttnD": (0.18, 19.02, 23.62),
    "StyleID": (0.27, 19.76, 26.36),
    "Z*": (0.29, 25.58, 34.29),
    "VCT": (0.26, 28.20, 36.79),
    "InST": (0.20, 23.51, 29.41),
    "CAST": (0.48, 22.23, 34.37),
    "StyTr2": (0.42, 20.59, 30.65),
    "AdaAttN": (0.40, 20.33, 29.85),
    "ArtFlow": (0.44, 23.16, 34.79),
}
STYLEGALLERY = {
    "StyTr2": (0.3856, 17.623, 25.804),
    "StyleID": (0.4496, 18.987, 28.973),
    "AD": (0.4032, 17.677, 26.207),
    "StyleShot": (0.6615, 20.638, 35.952),
    "StyleGallery": (0.3716, 16.889, 24.536),
}


class Rows:
    """A table that is no tensor: rows when asked for, as a file gives them."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        self.asked.append(len(rows) if isinstance(rows, Tensor) else rows.stop - rows.start)
        return self._rows[rows]


def features(seed: int, n: int, d: int) -> Tensor:
    """Correlated, of unequal variances, and with a mean of their own."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=random, dtype=torch.float64) / d**0.5
    mean = torch.randn(d, generator=random, dtype=torch.float64)
    return torch.randn(n, d, generator=random, dtype=torch.float64) @ mixing + mean


def gaussian(mean: Tensor, variances: Tensor, n: int = 10**9) -> Moments:
    """Moments of a set that is a Gaussian."""
    return Moments(n, mean.double(), torch.diag(variances.double()) * (n - 1))


def textbook(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017, eq. 6, with scipy's matrix root."""
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(one @ other))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root))


def by_roots(a: np.ndarray, b: np.ndarray) -> float:
    """The same with eigenvalues of the symmetric product, which may be singular."""
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(one)
    half = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ other @ half).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other) - 2 * cross)


def slow_kid(x: Tensor, y: Tensor) -> float:
    """Binkowski et al. 2018, eq. 4, pair by pair."""
    d, n, m = x.shape[1], len(x), len(y)
    xx = sum((float(x[i] @ x[j]) / d + 1) ** 3 for i in range(n) for j in range(n) if i != j)
    yy = sum((float(y[i] @ y[j]) / d + 1) ** 3 for i in range(m) for j in range(m) if i != j)
    xy = sum((float(a @ b) / d + 1) ** 3 for a in x for b in y)
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


sizes = st.integers(2, 30)
widths = st.integers(1, 12)
seeds = st.integers(0, 999)


@given(seeds, sizes, widths)
def test_a_set_is_no_distance_from_itself(seed: int, n: int, d: int) -> None:
    x = features(seed, n, d)
    allowed = 1e-9 * float(2 * x.var(dim=0).sum())
    assert 0 <= frechet_distance_features(x, x) <= allowed
    assert 0 <= frechet_distance(Moments.of(x), Moments.of(x)) <= allowed


@given(seeds, sizes, sizes, widths)
def test_the_distance_is_symmetric_and_blind_to_order(seed: int, n: int, m: int, d: int) -> None:
    x, y = features(seed, n, d), features(seed + 1, m, d)
    expected = frechet_distance_features(x, y)
    assert frechet_distance_features(y, x) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert frechet_distance_features(x.flip(0), y) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(seeds, sizes, sizes, widths)
def test_a_common_rotation_and_shift_change_nothing(seed: int, n: int, m: int, d: int) -> None:
    x, y = features(seed, n, d), features(seed + 1, m, d)
    random = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64)).Q
    shift = 10 * torch.randn(d, generator=random, dtype=torch.float64)
    moved = frechet_distance_features(x @ turn + shift, y @ turn + shift)
    assert moved == pytest.approx(frechet_distance_features(x, y), rel=1e-8, abs=1e-8)


@given(seeds, sizes, sizes, widths)
def test_features_twice_as_large_are_four_times_as_far(seed: int, n: int, m: int, d: int) -> None:
    x, y = features(seed, n, d), features(seed + 1, m, d)
    twice = frechet_distance_features(2 * x, 2 * y)
    assert twice == pytest.approx(4 * frechet_distance_features(x, y), rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(*[st.floats(0, 9)] * 4), min_size=1, max_size=6))
def test_independent_features_add_up_one_by_one(
    columns: list[tuple[float, float, float, float]],
) -> None:
    table = torch.tensor(columns, dtype=torch.float64)
    found = frechet_distance(gaussian(table[:, 0], table[:, 1]), gaussian(table[:, 2], table[:, 3]))
    expected = sum((p - q) ** 2 + (a**0.5 - b**0.5) ** 2 for p, a, q, b in columns)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(
    st.lists(st.floats(-9, 9), min_size=2, max_size=20),
    st.lists(st.floats(-9, 9), min_size=2, max_size=20),
)
def test_one_feature_is_a_difference_of_means_and_of_deviations(
    one: list[float], other: list[float]
) -> None:
    x, y = np.array(one), np.array(other)
    found = frechet_distance_features(torch.tensor(x)[:, None], torch.tensor(y)[:, None])
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("n", "m", "d"), [(60, 80, 12), (40, 200, 30)])
def test_every_form_of_the_distance_agrees_when_rows_outnumber_columns(
    n: int, m: int, d: int
) -> None:
    # Behind stylecli.evaluation, which makes torchvision importable.
    from torch_fidelity import metric_fid
    from torchmetrics.image import fid as torchmetrics_fid

    x, y = features(1, n, d), features(2, m, d)
    one, other = (metric_fid.fid_features_to_statistics(rows) for rows in (x, y))
    fidelity = metric_fid.fid_statistics_to_metric(one, other, verbose=False)
    covariances = [torch.tensor(s["sigma"]) for s in (one, other)]
    metrics = torchmetrics_fid._compute_fid(x.mean(0), covariances[0], y.mean(0), covariances[1])
    ours = frechet_distance(Moments.of(x), Moments.of(y))
    assert ours == pytest.approx(frechet_distance_features(x, y), rel=1e-10)
    forms = [form(x.numpy(), y.numpy()) for form in (textbook, by_roots)]
    for theirs in (*fidelity.values(), float(metrics), *forms):
        assert ours == pytest.approx(theirs, rel=1e-5)


@given(seeds, st.integers(2, 9), st.integers(2, 30))
def test_fewer_rows_than_columns_need_no_ridge(seed: int, n: int, m: int) -> None:
    x, y = features(seed, n, 40), features(seed + 1, m, 40)
    found = frechet_distance_features(x, y)
    # The textbook's roots of rounding stay, a millionth of the whole; ours has none.
    assert found == pytest.approx(by_roots(x.numpy(), y.numpy()), rel=1e-5)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(found, rel=1e-10)


def test_the_root_of_rounding_is_left_out() -> None:
    """30 rows in 400 columns: 371 eigenvalues are rounding, and their roots would add up."""
    x, y = features(1, 30, 400), features(2, 900, 400)
    exact = frechet_distance_features(x, y)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(exact, rel=1e-11)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("n", "m"), [(1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("d", [1, 3])
def test_one_picture_is_no_set(n: int, m: int, d: int) -> None:
    x, y = features(1, n, d), features(2, m, d)
    with pytest.raises(ItemError, match="two pictures") as caught:
        frechet_distance_features(x, y)
    assert caught.value.fix
    with pytest.raises(ItemError, match="two pictures"):
        frechet_distance(Moments.of(x), Moments.of(y))
    with pytest.raises(ItemError, match="two pictures"):
        kid(x, y)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_features_that_are_not_finite_are_named(wrong: float) -> None:
    x, y = features(1, 5, 3), features(2, 9, 3)
    x[2, 1] = wrong
    for distance in (
        frechet_distance_features,
        kid,
        lambda a, b: Moments.of(b).merge(Moments.of(a)),
    ):
        with pytest.raises(ItemError, match="not finite"):
            distance(x, y)


def test_repeated_references_only_change_a_factor_of_the_covariance() -> None:
    """Of 5 references given 20 times each it is 20 · 4 / 99 of theirs."""
    x, references = features(1, 60, 12), features(2, 5, 12)
    mean = references.mean(dim=0)
    shrunk = mean + (references - mean) * math.sqrt(20 * 4 / 99)
    found = frechet_distance_features(x, references.repeat(20, 1))
    assert found == pytest.approx(frechet_distance_features(x, shrunk), rel=1e-6)


def test_only_rounding_is_taken_for_zero() -> None:
    assert at_least_zero(0.25, 10.0) == 0.25
    assert at_least_zero(-9e-6, 10.0) == 0
    with pytest.raises(ItemError, match=r"-1\.1e-05"):
        at_least_zero(-1.1e-5, 10.0)
    with pytest.raises(ItemError, match="nan"):
        at_least_zero(math.nan, 10.0)


def test_single_precision_features_are_summed_in_double() -> None:
    x, y = features(1, 50, 4).float() + 1000, features(2, 60, 4).float() + 1000
    expected = frechet_distance_features(x.double(), y.double())
    assert frechet_distance_features(x, y) == expected
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-12)
    assert kid(x / 1000, y / 1000) == kid((x / 1000).double(), (y / 1000).double())


@given(seeds, st.lists(st.integers(0, 12), min_size=1, max_size=8), st.randoms())
def test_any_split_in_any_order_has_the_moments_of_the_whole(seed, lengths, random) -> None:
    whole = features(seed, 2 + sum(lengths), 5) + 1000
    parts = [Moments.of(batch) for batch in whole.split([2, *lengths])]
    random.shuffle(parts)
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    assert total.n == len(whole)
    torch.testing.assert_close(total.mean, whole.mean(dim=0), rtol=1e-14, atol=0)
    expected = np.cov(whole.numpy(), rowvar=False)
    np.testing.assert_allclose(total.covariance().numpy(), expected, rtol=0, atol=1e-12)


def test_moments_merge_in_pairs_as_well_as_in_a_row() -> None:
    batches = [Moments.of(batch) for batch in (features(3, 64, 6) + 1000).split(8)]
    row = batches[0]
    for batch in batches[1:]:
        row = row.merge(batch)
    while len(batches) > 1:
        batches = [a.merge(b) for a, b in zip(batches[::2], batches[1::2], strict=True)]
    torch.testing.assert_close(batches[0].m2, row.m2, rtol=1e-12, atol=1e-10)


def test_a_group_left_out_is_the_others_merged() -> None:
    groups = features(4, 40, 3).split(10)
    first, *others = [Moments.of(g) for g in groups[1:]]
    for other in others:
        first = first.merge(other)
    kept, references = torch.cat(groups[1:]), features(5, 30, 3)
    expected = frechet_distance_features(kept, references)
    assert frechet_distance(first, Moments.of(references)) == pytest.approx(expected, rel=1e-10)


def test_kid_of_four_numbers() -> None:
    x, y = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[2.0], [3.0]]).double()
    # 1 among X, 343 among Y, and 23.25 = (1 + 1 + 27 + 64) / 4 between them.
    assert kid(x, y) == 1 + 343 - 2 * 23.25 == 297.5


@given(seeds, st.integers(2, 9), st.integers(2, 9), st.integers(1, 5), st.integers(1, 10))
def test_kid_is_its_definition_however_it_is_cut(
    seed: int, n: int, m: int, d: int, block: int
) -> None:
    x, y = features(seed, n, d), features(seed + 1, m, d)
    expected = slow_kid(x, y)
    assert kid(x, y, block=block) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    table = Rows(x)
    assert kid(table, Rows(y), block=block) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert max(table.asked) <= block


def test_kid_is_torch_fidelitys_of_one_subset_that_holds_all() -> None:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    x, y = features(1, 50, 6), features(2, 50, 6)
    theirs = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=50, verbose=False)
    assert kid(x, y) == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9)


def test_kid_of_equal_distributions_is_zero_on_average_and_below_it_at_times() -> None:
    random = torch.Generator().manual_seed(0)
    drawn = torch.randn(300, 2, 20, 4, generator=random, dtype=torch.float64)
    values = np.array([kid(x, y) for x, y in drawn])
    assert abs(values.mean()) < 3 * values.std(ddof=1) / math.sqrt(len(values))
    assert (values < 0).sum() > 30


def test_repeated_references_bias_kid() -> None:
    """Why the unbiased form wants each reference once."""
    random = torch.Generator().manual_seed(1)
    drawn = torch.randn(100, 2, 10, 4, generator=random, dtype=torch.float64)
    repeated = np.array([kid(x, y.repeat(20, 1)) for x, y in drawn])
    assert repeated.mean() > 3 * repeated.std(ddof=1) / math.sqrt(len(repeated))


def test_large_sets_are_averaged_over_seeded_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "KID_SUBSET_SIZE", 7)
    monkeypatch.setattr(frechet, "KID_SUBSETS", 9)
    x, y = features(1, 40, 3), features(2, 5, 3)
    random = torch.Generator().manual_seed(3)
    expected = []
    for _ in range(9):
        rows = x[torch.randperm(40, generator=random)[:7]]
        expected.append(slow_kid(rows, y[torch.randperm(5, generator=random)[:7]]))

    def found(a: Tensor | Rows, b: Tensor | Rows) -> float:
        return kid(a, b, exact_up_to=39, generator=torch.Generator().manual_seed(3))

    assert found(x, y) == pytest.approx(np.mean(expected), rel=1e-10)
    assert found(Rows(x), Rows(y)) == pytest.approx(found(x, y), rel=1e-12)


def test_sets_no_larger_than_allowed_leave_nothing_to_chance() -> None:
    x, y = features(1, 40, 3), features(2, 5, 3)
    generator = torch.Generator().manual_seed(3)
    assert kid(x, y, exact_up_to=40, generator=generator) == kid(x, y)
    assert kid(x, y, exact_up_to=2) == kid(x, y)
    assert (frechet.KID_SUBSETS, frechet.KID_SUBSET_SIZE) == (100, 1000)


@pytest.mark.slow
def test_subsets_estimate_the_exact_kid() -> None:
    x, y = features(1, 1200, 3), features(2, 1100, 3)
    drawn = kid(x, y, exact_up_to=1000, generator=torch.Generator().manual_seed(0))
    assert drawn == pytest.approx(kid(x, y), rel=0.02)


def test_fid_infinity_is_less_biased_and_refuses_small_sets() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(8000, 16, generator=random, dtype=torch.float64)
    references = gaussian(torch.zeros(16), torch.ones(16))
    biased = frechet_distance(Moments.of(x), references)
    unbiased = frechet.fid_infinity(Rows(x), references, torch.Generator().manual_seed(1))
    assert abs(unbiased) < biased / 2
    with pytest.raises(ItemError, match="8000 outputs or more, and there are 7999"):
        frechet.fid_infinity(x[:-1], references, torch.Generator())


def test_fid_infinity_is_a_line_through_fifteen_sizes() -> None:
    x, references = features(1, 9000, 2), Moments.of(features(2, 500, 2))
    random = torch.Generator().manual_seed(4)
    counts = np.linspace(5000, 9000, 15).round().astype(int)
    values = [
        textbook(x[torch.randperm(9000, generator=random)[:n]].numpy(), features(2, 500, 2).numpy())
        for n in counts
    ]
    _slope, expected = np.polyfit(1 / counts, values, 1)
    found = frechet.fid_infinity(x, references, torch.Generator().manual_seed(4))
    assert found == pytest.approx(expected, rel=1e-8)


@given(st.floats(-50, 50), st.floats(-1e5, 1e5))
def test_a_line_in_one_over_n_is_followed_to_its_end(limit: float, slope: float) -> None:
    counts = [5000, 6000, 7500, 10000]
    found = frechet.intercept(counts, [limit + slope / n for n in counts])
    assert found == pytest.approx(limit, rel=1e-9, abs=1e-9)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("lpips", "fid", "printed"), [*DIFFSTYLER.values(), *STYLEGALLERY.values()]
)
def test_published_artfids_are_the_product_of_their_factors(
    lpips: float, fid: float, printed: float
) -> None:
    """Every row reproduces: none is farther off than 0.012, far inside what rounding allows."""
    found = frechet.art_fid(lpips, fid)
    assert abs(found - printed) <= 0.012 + 1e-9
    lpips_step, fid_step = (0.005, 0.005) if lpips == round(lpips, 2) else (5e-5, 5e-4)
    low = frechet.art_fid(lpips - lpips_step, fid - fid_step) - fid_step
    assert low <= printed <= frechet.art_fid(lpips + lpips_step, fid + fid_step) + fid_step


def test_a_copy_of_content_and_style_has_an_artfid_of_one() -> None:
    x = features(1, 12, 20)
    assert frechet.art_fid(0.0, frechet_distance_features(x, x)) == pytest.approx(1, abs=1e-9)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    without = [np.delete(values, i).mean() for i in range(len(values))]
    se = jackknife_interval(values.mean(), without).se
    assert se == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)))


@pytest.mark.slow
def test_the_jackknife_of_fid_sees_its_spread() -> None:
    """20 groups against what 300 fresh sets of outputs do."""
    random = torch.Generator().manual_seed(0)
    references = gaussian(torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    scale, shift = torch.tensor([2.0, 1.0, 1.5, 1.0]), torch.tensor([1.0, 0.0, -1.0, 0.5])

    def groups() -> list[Moments]:
        drawn = torch.randn(400, 4, generator=random, dtype=torch.float64) * scale + shift
        return [Moments.of(group) for group in drawn.split(20)]

    def distance(parts: list[Moments]) -> float:
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        return frechet_distance(total, references)

    truth = float(np.std([distance(groups()) for _ in range(300)], ddof=1))
    estimates = []
    for _ in range(10):
        parts = groups()
        without = [distance(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
        estimates.append(jackknife_interval(0.0, without).se)
    assert 0.6 * truth < np.mean(estimates) < 1.4 * truth
    assert 0.6 * truth < estimates[0] < 1.4 * truth
