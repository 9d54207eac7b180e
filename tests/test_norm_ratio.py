"""Losses of ASL against their published values and nested loops."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses import NegativePairs, NormRatio

RAGGED = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3])  # an id of three, an id alone


def _rows(count: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).double()


def _slow(features, scales, ids) -> float:
    total, names = 0.0, sorted(set(ids.tolist()))
    for name in names:
        terms = []
        own = [i for i in range(len(ids)) if ids[i] == name]
        for a, b in combinations(own, 2):
            if abs(float(scales[a] - scales[b])) >= 0.05 - 1e-6:
                big, small = (a, b) if scales[a] > scales[b] else (b, a)
                ratio = float(features[big].norm() / features[small].norm())
                terms.append(math.exp(1 - ratio))
        total += sum(terms) / len(terms) if terms else 0.0
    return total / len(names)


@pytest.mark.parametrize(("ratio", "value"), [(1, 1.0), (2, 0.367879), (0.5, 1.648721)])
def test_published_values(ratio, value):
    features = F.normalize(_rows(2), dim=1) * torch.tensor([[ratio], [1.0]])
    scales, ids = torch.tensor([1.0, 0.4]), torch.tensor([7, 7])
    for draw in ("pairs", "one"):
        loss = NormRatio(draw)(features, scales, ids)
        assert float(loss) == pytest.approx(value, abs=1e-6)
        assert float(NormRatio(draw)(3 * features, scales, ids)) == pytest.approx(value, abs=1e-6)


def test_a_step_lengthens_the_big_one_along_its_direction():
    features = _rows(2).requires_grad_()
    NormRatio()(features, torch.tensor([0.3, 1.0]), torch.tensor([0, 0])).backward()
    along = F.cosine_similarity(features.detach(), features.grad)
    assert torch.allclose(along, torch.tensor([1.0, -1.0]).double())  # descent goes against it
    for draw in ("pairs", "one"):
        features.grad = None
        loss = NormRatio(draw)(features, torch.tensor([0.5, 0.5]), torch.tensor([0, 0]))
        if draw == "one":
            assert float(loss.detach()) == 1.0
        loss.backward()
        assert features.grad.abs().sum() == 0


def test_all_pairs_are_those_of_nested_loops():
    scales = torch.rand(12, generator=torch.Generator().manual_seed(4))
    scales[4:8] = torch.tensor([0.5, 0.52, 0.54, 0.55])  # only the outer two are far enough apart
    loss = NormRatio()(_rows(), scales, RAGGED)
    assert float(loss) == pytest.approx(_slow(_rows(), scales, RAGGED), abs=1e-6)


def test_one_pair_an_id_has_the_same_expectation():
    scales = torch.tensor([0.1, 0.4, 0.7, 1.0]).repeat(2)
    ids, features = torch.tensor([3, 3, 3, 3, 9, 9, 9, 9]), _rows(8)
    generator = torch.Generator().manual_seed(0)
    # Each call of many copies of the two ids is as many draws
    many = torch.arange(2000).repeat_interleave(4)
    loss = NormRatio("one")(features.repeat(1000, 1), scales.repeat(1000), many, generator)
    assert float(loss) == pytest.approx(float(NormRatio()(features, scales, ids)), rel=0.03)


def test_one_pair_is_drawn_without_replacement_and_again_where_scales_are_equal():
    features = torch.tensor([[1.0], [1.0], [1.0], [4.0]])
    scales = torch.tensor([0.2, 0.2, 0.2, 1.0])  # half of the pairs are of equal scales
    ids = torch.arange(1000).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    loss = NormRatio("one")(features.repeat(1000, 1), scales.repeat(1000), ids, generator)
    kept = 1 - 0.5**6  # six draws
    assert float(loss) == pytest.approx(kept * math.exp(-3) + 1 - kept, abs=0.02)


def test_norms_of_nothing_stay_finite():
    features = torch.zeros(2, 3, requires_grad=True)
    loss = NormRatio()(features, torch.tensor([0.2, 1.0]), torch.tensor([0, 0]))
    loss.backward()
    assert float(loss.detach()) == 1.0
    assert torch.isfinite(features.grad).all()


def test_negative_pairs_are_those_of_nested_loops_and_symmetric():
    ids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    pairs = torch.tensor([5, 5, 5, 5, -1, -1, 8, 8, 8, 8])
    features = _rows(10) + 0.5
    rows = F.normalize(features, dim=1)
    means = []
    for a, b in (((0, 1), (2, 3)), ((6, 7), (8, 9))):
        cosines = [float(rows[i] @ rows[j]) for i in a for j in b]
        means.append(sum(max(0.0, c - 0.3) for c in cosines) / 4)
    loss = NegativePairs()(features, ids, pairs)
    assert float(loss) == pytest.approx(sum(means) / 2)
    swapped = torch.tensor([2, 3, 0, 1, 4, 5, 8, 9, 6, 7])
    assert float(NegativePairs()(features[swapped], ids, pairs)) == pytest.approx(float(loss))


def test_negative_pairs_push_above_the_margin_alone():
    ids, pairs = torch.tensor([0, 1]), torch.tensor([0, 0])

    def loss(cosine: float) -> float:
        rows = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
        return float(NegativePairs()(rows, ids, pairs))

    assert loss(0.29) == loss(-0.9) == 0
    assert loss(0.5) == pytest.approx(0.2, abs=1e-6)
    assert loss(0.7) == pytest.approx(0.4, abs=1e-6)
    assert float(NegativePairs()(_rows(2), ids, torch.tensor([-1, -1]))) == 0


def test_unknown_draws_are_refused():
    with pytest.raises(KitError, match="pairs or one"):
        NormRatio("all")
