"""Losses against golden values of the papers' formulas and slow loops."""

from __future__ import annotations

import math
import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn import functional as F

from iscutils.losses import (
    BarlowTwins,
    InfoNCE,
    KoLeo,
    MemoryQueue,
    RelationalDistillation,
    gather,
    global_pairs,
)


def at_angles(*degrees: float) -> torch.Tensor:
    radians = torch.tensor([math.radians(d) for d in degrees], dtype=torch.float64)
    return torch.stack([radians.cos(), radians.sin()], 1)


ROWS = at_angles(0, 50, 110, 20, 80, 150)  # views of images 0 1 2 | 0 1 2
SOURCES = torch.tensor([0, 1, 2, 0, 1, 2])[:, None]


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
def test_losses_stay_finite_with_identical_rows(kind):
    rows = torch.ones(8, 4, dtype=kind, requires_grad=True)
    unit = F.normalize(rows.float(), dim=1)
    similarity, positives, negatives = global_pairs(unit, torch.arange(4).repeat(2)[:, None])
    loss = InfoNCE(0.05)(similarity, positives, negatives) + KoLeo()(similarity, negatives)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(rows.grad).all()


def test_rows_without_a_negative_do_not_count():
    similarity, positives, negatives = global_pairs(ROWS, torch.zeros(6, 1))
    loss = InfoNCE(0.05)(similarity, positives, negatives) + KoLeo()(similarity, negatives)
    assert loss.item() == 0.0


def test_hard_negative_loss_is_twice_koleo_plus_log_two():
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(20, 8, generator=generator, dtype=torch.float64), dim=1)
    similarity, _, negatives = global_pairs(rows, torch.arange(20)[:, None])
    nearest = similarity.masked_fill(~negatives, -2).amax(1)
    hard = -(1 - nearest).log().mean()
    assert hard.item() == pytest.approx(2 * KoLeo()(similarity, negatives).item() + math.log(2))


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


@pytest.mark.parametrize(("temperature", "expected"), [(0.04, 0.017470), (0.5, 0.030448)])
def test_relational_distillation_golden(temperature, expected):
    teacher, student, keys = at_angles(0, 90), at_angles(15, 60), at_angles(30, 60, 200)
    loss = RelationalDistillation(temperature)(teacher, student, keys)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert RelationalDistillation(temperature)(teacher, teacher, keys).item() == pytest.approx(0)


def test_relational_distillation_gives_no_gradient_to_the_teacher():
    teacher, student, keys = (
        x.requires_grad_() for x in (ROWS.clone(), ROWS.clone(), ROWS.clone())
    )
    RelationalDistillation()(teacher, student * 1.0, keys.detach()).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_memory_is_first_in_first_out_across_the_wrap():
    queue = MemoryQueue(10, 2)
    for step in range(3):
        ids = torch.arange(4) + 4 * step
        queue.write(torch.stack([ids.float(), ids.float()], 1), ids)
    assert queue.ids.tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert queue.vectors[:, 0].tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (int(queue.pointer), int(queue.filled)) == (2, 10)
    with pytest.raises(ValueError, match="enlarge"):
        queue.write(torch.zeros(11, 2), torch.zeros(11, dtype=torch.long))


def test_memory_starts_with_unit_rows_from_the_seed():
    assert torch.equal(MemoryQueue(6, 3, seed=4).vectors, MemoryQueue(6, 3, seed=4).vectors)
    assert torch.allclose(MemoryQueue(6, 3).vectors.norm(dim=1), torch.ones(6))


def _loss(rows: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    similarity, positives, negatives = global_pairs(rows, sources)
    barlow = BarlowTwins()(rows[: len(rows) // 2], rows[len(rows) // 2 :])
    return InfoNCE(0.1)(similarity, positives, negatives) + KoLeo()(similarity, negatives) + barlow


def _process(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    weight = _weight().requires_grad_()
    inputs, sources = _inputs()
    mine = slice(4 * rank, 4 * rank + 4)
    rows = F.normalize(inputs[mine] @ weight, dim=1)
    _loss(rows, sources[mine]).backward()
    torch.distributed.all_reduce(weight.grad)
    queue = MemoryQueue(16, 3)
    queue.write(rows, sources[mine][:, 0])
    state = {"gradient": weight.grad / 2, "queue": queue.vectors, "seen": gather(rows).detach()}
    torch.save(state, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _weight() -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.tensor([0, 1, 0, 1, 2, 3, 2, 3])[:, None]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_give_the_gradient_of_one(tmp_path, free_port):
    mp.spawn(_process, (free_port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    weight, (inputs, sources) = _weight().requires_grad_(), _inputs()
    rows = F.normalize(inputs @ weight, dim=1)
    similarity, positives, negatives = global_pairs(rows, sources)
    # One process that holds all rows: first views 0 1 4 5, second views 2 3 6 7.
    barlow = BarlowTwins()(rows[[0, 1, 4, 5]], rows[[2, 3, 6, 7]])
    loss = InfoNCE(0.1)(similarity, positives, negatives) + KoLeo()(similarity, negatives) + barlow
    loss.backward()
    assert torch.allclose(first["gradient"], weight.grad, atol=1e-10)
    assert torch.equal(first["gradient"], second["gradient"])
    assert torch.equal(first["queue"], second["queue"])
    assert torch.allclose(first["seen"], rows.detach())
