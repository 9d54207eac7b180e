"""Triplet losses: hardest pairs and values as nested loops find them, gradients, collectives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses import MemoryQueue, MemoryTriplet, SoftTriplet, batch_hard, memory_hard


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_soft_triplet(features: torch.Tensor, ids: list[int]) -> float:
    """Formula by formula: farthest positive, nearest negative, softplus of the difference."""
    terms = []
    for i, row in enumerate(features):
        distances = [math.dist(row.tolist(), other.tolist()) for other in features]
        positives = [d for j, d in enumerate(distances) if ids[j] == ids[i] and j != i]
        negatives = [d for j, d in enumerate(distances) if ids[j] != ids[i]]
        if positives and negatives:
            terms.append(math.log(1 + math.exp(max(positives) - min(negatives))))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("ids", [[0, 0, 1, 1, 2, 2, 0, 1], [5, 5, 5, 1, 2, 3, 4, 4], [7, 7, 7, 8]])
def test_soft_triplet_equals_nested_loops(ids):
    features = 2 * rows(len(ids), 5) + 3  # far from length 1
    loss = SoftTriplet()(features, torch.tensor(ids))
    assert loss.item() == pytest.approx(slow_soft_triplet(features, ids), rel=1e-12)


def test_soft_triplet_is_minus_log_of_the_second_share_of_a_softmax():
    features, ids = rows(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    positive, negative, usable = batch_hard(features, ids)
    assert usable.all()
    shares = torch.stack([positive, negative], 1).log_softmax(1)
    assert SoftTriplet()(features, ids).item() == pytest.approx(-shares[:, 1].mean().item())


def test_rows_without_partner_do_not_count_and_equal_rows_give_finite_gradients():
    features = rows(6, 4)
    features[1] = features[0]  # two copies that are alike already
    features.requires_grad_()
    ids = torch.tensor([0, 0, 1, 1, 2, 3])
    _, _, usable = batch_hard(features, ids)
    assert usable.tolist() == [True] * 4 + [False] * 2
    SoftTriplet()(features, ids).backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().sum() > 0
    lonely = rows(3, 4).requires_grad_()
    for alone in (torch.tensor([0, 1, 2]), torch.tensor([4, 4, 4])):
        loss = SoftTriplet()(lonely, alone)
        assert loss.item() == 0
        loss.backward()
    assert torch.equal(lonely.grad, torch.zeros_like(lonely))


def test_soft_triplet_gradient_equals_finite_differences():
    features, ids = rows(5, 3).requires_grad_(), torch.tensor([0, 0, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda x: SoftTriplet()(x, ids), features)


def test_long_rows_keep_the_digits_of_small_distances():
    base = 1000 + torch.arange(64.0).repeat(30, 1)  # float32, squared length of 6e7
    base[:, 0] += 0.01 * torch.arange(30)
    ids = torch.arange(30) // 15
    positive, negative, _ = batch_hard(base, ids)
    assert negative[14].item() == pytest.approx(0.01, rel=0.05)
    assert positive[0].item() == pytest.approx(0.14, rel=0.05)


def slow_memory_triplet(anchors, positives, ids, vectors, vector_ids, margin, nearest=1) -> float:
    others = [*zip(anchors, ids, strict=True), *zip(positives, ids, strict=True)]
    others += [pair for pair in zip(vectors, vector_ids, strict=True) if pair[1] >= 0]
    terms = []
    for anchor, positive, own in zip(anchors, positives, ids, strict=True):
        far = [math.dist(anchor.tolist(), row.tolist()) ** 2 for row, i in others if i != own]
        near = math.dist(anchor.tolist(), positive.tolist()) ** 2
        terms += [max(0.0, near - distance + margin) for distance in sorted(far)[:nearest]]
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("margin", "nearest"), [(0.2, 1), (1.0, 1), (0.2, 4), (1.0, 99)])
def test_memory_triplet_equals_nested_loops(margin, nearest):
    anchors, positives = F.normalize(rows(2, 5, 3), dim=-1)
    vectors = F.normalize(rows(9, 3, seed=1), dim=1)
    ids, vector_ids = [0, 1, 2, 3, 1], [0, 1, 2, 3, 8, 9, -1, -1, 0]
    memory = vectors, torch.tensor(vector_ids)
    parts = memory_hard(anchors, positives, torch.tensor(ids), *memory, nearest=nearest)
    expected = slow_memory_triplet(
        anchors, positives, ids, vectors, vector_ids, margin, nearest=nearest
    )
    assert MemoryTriplet(margin)(*parts).item() == pytest.approx(expected, rel=1e-9)


def test_the_memory_gives_the_hardest_negative_but_never_the_own_image():
    anchors = F.normalize(rows(2, 4), dim=1)
    positives, ids = F.normalize(rows(2, 4, seed=3), dim=1), torch.tensor([0, 1])
    queue = MemoryQueue(4, 4).double()
    unwritten = memory_hard(anchors, positives, ids, *queue.content())
    assert all(map(torch.equal, unwritten, memory_hard(anchors, positives, ids)))
    queue.write(anchors, torch.tensor([0, 7]))  # equal to the anchors: their hardest negatives
    _, negative, usable = memory_hard(anchors, positives, ids, *queue.content())
    assert usable.all()
    assert negative[1].item() == pytest.approx(0, abs=1e-12)
    assert negative[0] > 1e-3  # the equal entry shows the same image


def test_no_gradient_reaches_the_memory_and_a_single_image_has_no_loss():
    anchors = F.normalize(rows(1, 3), dim=1).requires_grad_()
    positives = F.normalize(rows(1, 3, seed=1), dim=1)
    loss = MemoryTriplet()(*memory_hard(anchors, positives, torch.tensor([4])))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(anchors.grad, torch.zeros_like(anchors))
    vectors = F.normalize(rows(2, 3, seed=2), dim=1).requires_grad_()
    parts = memory_hard(anchors, positives, torch.tensor([4]), vectors, torch.tensor([4, 5]))
    MemoryTriplet(4.0)(*parts).backward()
    assert vectors.grad is None
    assert anchors.grad.abs().sum() > 0


def test_a_senseless_margin_is_refused():
    with pytest.raises(KitError, match=r"0\.\.4"):
        MemoryTriplet(5.0)
