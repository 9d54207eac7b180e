"""Mixup and cutmix: who meets whom, and how much of each."""

import numpy as np
import pytest
import torch

from iscutils.edits.mixing import mix_rows
from iscutils.losses import InfoNCE, global_pairs

COUNT, SIDE = 32, 24


def constant_rows():
    """Row i is i everywhere: a mixed pixel says whose it is."""
    return torch.arange(COUNT, dtype=torch.float32)[:, None, None, None].expand(-1, 3, SIDE, SIDE)


def ids():
    return torch.arange(COUNT // 2).repeat(2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_probability_zero_returns_the_batch():
    rows, sources, weights = mix_rows(constant_rows(), ids(), seeded(), 0.0)
    assert torch.equal(rows, constant_rows())
    assert torch.equal(sources, torch.stack([ids(), ids()], 1))
    assert torch.equal(weights, torch.ones(COUNT))


def test_pixels_come_from_the_mirrored_row_and_gamma_is_their_share():
    before = constant_rows().clone()
    rows, sources, weights = mix_rows(before, ids(), seeded(), 1.0)
    assert torch.equal(before, constant_rows())  # left as it was
    mixup = cutmix = 0
    for i in range(COUNT):
        own, partner = float(i), float(COUNT - 1 - i)
        values = rows[i].unique()
        assert set(sources[i].tolist()) <= {int(ids()[i]), int(ids()[COUNT - 1 - i])}
        if len(values) == 1 and 0 < weights[i] < 1:  # mixup
            mixup += 1
            expected = float(weights[i]) * own + (1 - float(weights[i])) * partner
            assert float(values[0]) == pytest.approx(expected, abs=1e-4)
        else:
            cutmix += 1
            assert set(values.tolist()) <= {own, partner}
            share = float((rows[i, 0] == own).float().mean())
            assert float(weights[i]) == pytest.approx(share, abs=1e-6)
            ys, xs = np.nonzero((rows[i, 0] == partner).numpy())
            if len(ys):  # one full box
                assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
    assert mixup > 5
    assert cutmix > 5


def test_sources_of_no_weight_are_not_named():
    rows = torch.zeros(2, 3, 1, 1)  # boxes in one pixel have no area: gamma is 1
    for seed in range(40):
        _, sources, weights = mix_rows(rows, torch.tensor([5, 9]), seeded(seed), 1.0)
        for i, weight in enumerate(weights.tolist()):
            named = {(5, 9)[i]} if weight == 1 else {(9, 5)[i]} if weight == 0 else {5, 9}
            assert set(sources[i].tolist()) == named


def test_the_same_generator_gives_the_same_mix_and_the_shares_are_beta():
    first, again, other = (
        mix_rows(constant_rows(), ids(), seeded(s), 0.5)[0] for s in (1, 1, 2)
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    rows = torch.arange(2000.0)[:, None, None, None].expand(-1, 1, 4, 4)
    mixed, _, weights = mix_rows(rows, torch.arange(1000).repeat(2), seeded(), 0.3)
    assert (weights < 1).float().mean() == pytest.approx(0.3, abs=0.07)  # tiny boxes vanish
    flat = mixed.flatten(1).std(1) == 0
    shares = weights[flat & (weights < 1)]  # mixup: Beta(2, 2) has mean 1/2 and variance 1/20
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(shares.var()) == pytest.approx(0.05, abs=0.015)


def test_loss_of_mixed_rows_equals_nested_loops():
    mixed, sources, _ = mix_rows(
        torch.randn(12, 3, 8, 8), torch.arange(6).repeat(2), seeded(4), 0.7
    )
    rows = torch.nn.functional.normalize(mixed.flatten(1), dim=1)
    loss = InfoNCE(0.3)(*global_pairs(rows, sources))
    terms = []
    for i in range(12):
        match = [set(sources[i].tolist()) & set(sources[j].tolist()) != set() for j in range(12)]
        rivals = sum(np.exp(float(rows[i] @ rows[j]) / 0.3) for j in range(12) if not match[j])
        positives = [np.exp(float(rows[i] @ rows[j]) / 0.3)
                     for j in range(12) if match[j] and j != i]  # fmt: skip
        terms.append(np.mean([-np.log(p / (p + rivals)) for p in positives]))
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-5)
