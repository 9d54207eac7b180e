"""Losses against golden values of the papers' formulas and slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses import (
    BarlowTwins,
    DirectCLR,
    HardNegative,
    InfoNCE,
    KoLeo,
    MemoryQueue,
    RelationalDistillation,
    direct_width,
    global_pairs,
    mean_over,
    nearest_similarity,
    queue_pairs,
    unit,
)


def at_angles(*degrees: float) -> torch.Tensor:
    radians = torch.tensor([math.radians(d) for d in degrees], dtype=torch.float64)
    return torch.stack([radians.cos(), radians.sin()], 1)


ROWS = at_angles(0, 50, 110, 20, 80, 150)  # views of images 0 1 2 | 0 1 2
SOURCES = torch.tensor([0, 1, 2, 0, 1, 2])[:, None]


def random_rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=1)


def info_nce_by_loops(rows: torch.Tensor, sources: torch.Tensor, temperature: float) -> float:
    total, counted = 0.0, 0
    match = [[bool(set(a.tolist()) & set(b.tolist())) for b in sources] for a in sources]
    for i in range(len(rows)):
        positives = [j for j in range(len(rows)) if j != i and match[i][j]]
        negatives = [k for k in range(len(rows)) if not match[i][k]]
        if not positives or not negatives:
            continue
        against = sum(math.exp(float(rows[i] @ rows[k]) / temperature) for k in negatives)
        terms = []
        for j in positives:
            own = math.exp(float(rows[i] @ rows[j]) / temperature)
            terms.append(-math.log(own / (own + against)))
        total, counted = total + sum(terms) / len(terms), counted + 1
    return total / max(1, counted)


@pytest.mark.parametrize(("temperature", "expected"), [(0.5, 0.915990), (0.05, 0.621530)])
def test_info_nce_golden(temperature, expected):
    loss = InfoNCE(temperature)(*global_pairs(ROWS, SOURCES))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_koleo_golden_and_total():
    similarity, positives, negatives = global_pairs(ROWS, SOURCES)
    koleo = KoLeo()(similarity, negatives)
    total = InfoNCE(0.05)(similarity, positives, negatives) + 30 * koleo
    assert koleo.item() == pytest.approx(0.444129, abs=1e-5)
    assert total.item() == pytest.approx(13.945390, abs=1e-5)


def test_info_nce_with_a_mixed_row():
    sources = torch.tensor([[0, 2], [1, 1], [2, 2], [0, 0], [1, 1], [2, 2]])
    loss = InfoNCE(0.5)(*global_pairs(ROWS, sources)).item()
    assert loss == pytest.approx(1.508455, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_info_nce_equals_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(14, 5, generator=generator, dtype=torch.float64), dim=1)
    sources = torch.randint(0, 6, (14, 2), generator=generator)
    loss = InfoNCE(0.1)(*global_pairs(rows, sources)).item()
    assert loss == pytest.approx(info_nce_by_loops(rows, sources, 0.1), rel=1e-9)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("same", [True, False])
def test_all_losses_stay_finite_under_autocast(kind, same):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 6, generator=generator)
    given = features[:1].repeat(8, 1) if same else features  # identical rows
    layer = torch.nn.Linear(6, 4)
    vectors = unit(torch.ones(5, 4)) if same else unit(torch.randn(5, 4, generator=generator))
    with torch.autocast("cpu", dtype=kind):
        raw = layer(given)
        assert raw.dtype == kind
        rows, ids = unit(raw), torch.arange(4).repeat(2)
        pairs = global_pairs(rows, ids[:, None])
        queued = queue_pairs(rows, ids, rows, vectors, torch.arange(5))
        loss = InfoNCE(0.05)(*pairs) + KoLeo()(pairs[0], pairs[2])
        loss = loss + InfoNCE(0.07)(*queued) + HardNegative()(queued[0], queued[2])
        loss = loss + RelationalDistillation(0.04)(rows.detach(), rows, vectors)
        loss = loss + RelationalDistillation(0.05)(vectors[:1].repeat(8, 1), rows, vectors)
        loss = loss + DirectCLR(2)(raw, ids[:, None])
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(layer.weight.grad).all()


def test_rows_without_a_negative_do_not_count():
    similarity, positives, negatives = global_pairs(ROWS, torch.zeros(6, 1))
    loss = InfoNCE(0.05)(similarity, positives, negatives) + KoLeo()(similarity, negatives)
    assert loss.item() == 0.0


def test_the_mean_leaves_rows_out_and_is_zero_without_any():
    terms = torch.tensor([1.0, 5.0, 3.0])
    assert mean_over(terms, torch.tensor([True, False, True])).item() == 2
    assert mean_over(terms, torch.zeros(3, dtype=torch.bool)).item() == 0


# --- queues: the contrast of MoCo and the hard-negative loss of RDCD

Z, KEYS, QUEUE = at_angles(0, 90), at_angles(10, 70), at_angles(30, 60, 200)
OTHERS = torch.tensor([7, 8, 9])  # images in the queue


def with_queue(rows=Z, keys=KEYS, vectors=QUEUE, vector_ids=OTHERS):
    return queue_pairs(rows, torch.arange(len(rows)), keys, vectors, vector_ids)


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 0.234961), (0.5, 0.820028)])
def test_contrast_with_a_queue_golden(temperature, expected):
    loss = InfoNCE(temperature)(*with_queue())
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    logits = torch.cat([(Z * KEYS).sum(1, keepdim=True), Z @ QUEUE.T], 1) / temperature
    textbook = F.cross_entropy(logits, torch.zeros(2, dtype=torch.long))
    assert loss.item() == pytest.approx(textbook.item(), rel=1e-12)


def test_hard_negative_golden_is_twice_koleo_plus_log_two():
    similarity, _, negatives = with_queue()
    hard, koleo = HardNegative()(similarity, negatives), KoLeo()(similarity, negatives)
    assert hard.item() == pytest.approx(2.010105, abs=1e-6)
    assert koleo.item() == pytest.approx(0.658479, abs=1e-6)
    similarity, _, negatives = global_pairs(random_rows(20, 8), torch.arange(20)[:, None])
    hard, koleo = HardNegative()(similarity, negatives), KoLeo()(similarity, negatives)
    assert hard.item() == pytest.approx(2 * koleo.item() + math.log(2), abs=1e-6)


def test_hard_negative_at_the_floor_has_no_gradient():
    rows = random_rows(1, 8).requires_grad_()
    vectors = torch.cat([random_rows(3, 8, seed=1), rows.detach()])
    ids = torch.arange(1, 5)
    similarity, _, negatives = queue_pairs(rows, torch.zeros(1), rows, vectors, ids)
    loss = HardNegative()(similarity, negatives)
    loss.backward()
    assert loss.item() == pytest.approx(6.907755, abs=1e-6)
    assert not rows.grad.any()


@pytest.mark.parametrize("seed", range(3))
def test_queue_losses_equal_loops(seed):
    rows, keys, vectors = (random_rows(n, 5, 10 * seed + i) for i, n in enumerate((6, 6, 9)))
    generator = torch.Generator().manual_seed(seed)
    vector_ids = torch.randint(0, 8, (9,), generator=generator)
    contrast, hard = [], []
    for i in range(6):
        against = [
            float(rows[i] @ v) for v, own in zip(vectors, vector_ids, strict=True) if own != i
        ]
        positive = math.exp(float(rows[i] @ keys[i]) / 0.07)
        contrast.append(-math.log(positive / (positive + sum(math.exp(s / 0.07) for s in against))))
        hard.append(-math.log(max(1 - max(against), 1e-3)))
    similarity, positives, negatives = with_queue(rows, keys, vectors, vector_ids)
    loss = InfoNCE(0.07)(similarity, positives, negatives).item()
    assert loss == pytest.approx(sum(contrast) / 6, rel=1e-9)
    assert HardNegative()(similarity, negatives).item() == pytest.approx(sum(hard) / 6, rel=1e-9)


def test_entries_of_the_own_image_change_nothing():
    vectors = torch.cat([QUEUE, at_angles(1, 91)])  # nearest of all, were they others' views

    def losses(ids):
        similarity, positives, negatives = with_queue(vectors=vectors, vector_ids=torch.tensor(ids))
        contrast = InfoNCE(0.07)(similarity, positives, negatives)
        return contrast.item(), HardNegative()(similarity, negatives).item()

    similarity, positives, negatives = with_queue()
    first = HardNegative()(similarity[:1], negatives[:1]).item()
    own = [with_queue(vectors=vectors, vector_ids=torch.tensor([7, 8, 9, 0, 1]))]
    assert HardNegative()(own[0][0][:1], own[0][2][:1]).item() == pytest.approx(first)
    assert losses([7, 8, 9, 5, 6])[0] > losses([7, 8, 9, 0, 1])[0]
    nothing = with_queue(vector_ids=torch.zeros(3))  # row 0 has no negative left
    rest = HardNegative()(similarity[1:], negatives[1:]).item()
    assert HardNegative()(nothing[0], nothing[2]).item() == pytest.approx(rest)
    contrast = InfoNCE(0.07)(similarity[1:], positives[1:], negatives[1:]).item()
    assert InfoNCE(0.07)(*nothing).item() == pytest.approx(contrast)


def test_no_gradient_reaches_keys_and_queue():
    rows, keys, vectors = (x.clone().requires_grad_() for x in (Z, KEYS, QUEUE))
    similarity, positives, negatives = with_queue(rows, keys, vectors)
    loss = InfoNCE(0.07)(similarity, positives, negatives) + HardNegative()(similarity, negatives)
    loss.backward()
    assert rows.grad.abs().sum() > 0
    assert keys.grad is None
    assert vectors.grad is None


@pytest.mark.parametrize(("width", "expected"), [(64, 0.505), (128, 0.367), (256, 0.264)])
def test_nearest_of_a_full_random_queue(width, expected):
    queue = MemoryQueue(65_536, width)
    rows = unit(torch.randn(64, width, generator=torch.Generator().manual_seed(1)))
    similarity = rows @ queue.vectors.T
    nearest, _ = nearest_similarity(similarity, torch.ones_like(similarity, dtype=torch.bool))
    assert nearest.mean().item() == pytest.approx(expected, abs=0.01)


# --- DirectCLR


def test_direct_contrast_uses_the_first_values_alone():
    pooled = (3 * random_rows(6, 10)).requires_grad_()
    loss = DirectCLR(4)(pooled, SOURCES)
    cut = F.normalize(pooled[:, :4].detach(), dim=1)
    assert loss.item() == pytest.approx(InfoNCE(0.1)(*global_pairs(cut, SOURCES)).item())
    loss.backward()
    assert not pooled.grad[:, 4:].any()
    assert pooled.grad[:, :4].any()
    whole = InfoNCE(0.1)(*global_pairs(unit(pooled.detach()), SOURCES))
    assert DirectCLR(10)(pooled, SOURCES).item() == pytest.approx(whole.item())
    with pytest.raises(KitError, match="lower direct_values"):
        DirectCLR(11)(pooled, SOURCES)


def test_direct_width_is_the_share_of_the_paper():
    channels = {512: 88, 640: 112, 784: 136, 960: 168, 1280: 224, 2048: 360, 16: 8}
    assert {c: direct_width(c) for c in channels} == channels


# --- Barlow Twins


def test_barlow_twins_equals_loops():
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    second = first + 0.3 * torch.randn(9, 4, generator=generator, dtype=torch.float64)
    expected = 0.0
    for a in range(4):
        for b in range(4):
            x, y = first[:, a] - first[:, a].mean(), second[:, b] - second[:, b].mean()
            deviation = ((x.square().mean() + 1e-5) * (y.square().mean() + 1e-5)).sqrt()
            c = float((x * y).mean() / deviation)
            expected += (1 - c) ** 2 if a == b else 0.01 * c**2
    assert BarlowTwins(0.01)(first, second).item() == pytest.approx(expected, rel=1e-9)


def test_barlow_twins_of_equal_decorrelated_views_is_zero():
    rows = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert BarlowTwins()(rows, rows).item() == pytest.approx(0, abs=1e-8)


# --- relations

TEACHER, STUDENT = at_angles(0, 90), at_angles(15, 60)


@pytest.mark.parametrize(("temperature", "expected"), [(0.04, 0.017470), (0.5, 0.030448)])
def test_relational_distillation_golden(temperature, expected):
    loss = RelationalDistillation(temperature)
    assert loss(TEACHER, STUDENT, QUEUE).item() == pytest.approx(expected, abs=1e-6)
    assert loss(TEACHER, TEACHER, QUEUE).item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("temperature", "kl", "tenth"), [(0.5, 0.062479, 0.132233), (0.05, 1.427326, 0.166614)]
)
def test_relations_with_the_current_batch_golden(temperature, kl, tenth):
    keys = torch.cat([TEACHER, QUEUE])
    given = RelationalDistillation(temperature)(TEACHER, STUDENT, keys).item()
    crossed = RelationalDistillation(temperature, "cross_entropy")(TEACHER, STUDENT, keys).item()
    assert given == pytest.approx(kl, abs=1e-6)
    assert crossed / 10 == pytest.approx(tenth, abs=1e-6)


def test_cross_entropy_is_kl_plus_the_entropy_of_the_teacher():
    crossed = RelationalDistillation(0.5, "cross_entropy")(TEACHER, STUDENT, QUEUE)
    kl = RelationalDistillation(0.5)(TEACHER, STUDENT, QUEUE)
    assert (crossed - kl).item() == pytest.approx(0.760840, abs=1e-6)
    with pytest.raises(KitError, match="kl or cross_entropy"):
        RelationalDistillation(0.5, "mse")


def test_relations_equal_loops():
    teacher, student, keys = (random_rows(n, 6, seed) for seed, n in enumerate((4, 4, 7)))
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        p, q = ([math.exp(float(x @ k) / 0.1) for k in keys] for x in (t, s))
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    loss = RelationalDistillation(0.1)(teacher, student, keys).item()
    assert loss == pytest.approx(total / 4, rel=1e-9)


def test_relations_give_a_gradient_to_the_student_alone():
    gradients = []
    for form in ("kl", "cross_entropy"):
        teacher, student, keys = (x.clone().requires_grad_() for x in (TEACHER, STUDENT, QUEUE))
        RelationalDistillation(0.05, form)(teacher, student, keys).backward()
        assert teacher.grad is None
        assert keys.grad is None
        gradients.append(student.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, atol=1e-6)


# --- memory


def test_memory_is_first_in_first_out_across_the_wrap():
    queue = MemoryQueue(10, 2)
    for step in range(3):
        ids = torch.arange(4) + 4 * step
        queue.write(torch.stack([ids.float(), ids.float()], 1), ids)
    assert queue.ids.tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert queue.vectors[:, 0].tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (int(queue.pointer), int(queue.filled)) == (2, 10)
    with pytest.raises(KitError, match="enlarge"):
        queue.write(torch.zeros(11, 2), torch.zeros(11, dtype=torch.long))


def test_memory_starts_with_unit_rows_from_the_seed():
    assert torch.equal(MemoryQueue(6, 3, seed=4).vectors, MemoryQueue(6, 3, seed=4).vectors)
    assert torch.allclose(MemoryQueue(6, 3).vectors.norm(dim=1), torch.ones(6))


def test_written_rows_do_not_touch_a_loss_of_the_same_step():
    queue = MemoryQueue(5, 3)
    rows = random_rows(2, 3).requires_grad_()
    vectors, ids = queue.content()
    similarity, _, negatives = queue_pairs(rows, torch.arange(2), rows, vectors, ids)
    loss = HardNegative()(similarity, negatives)
    queue.write(rows, torch.arange(2))
    loss.backward()  # needs the vectors as they were
    assert torch.isfinite(rows.grad).all()
    assert not torch.equal(queue.vectors, vectors)
