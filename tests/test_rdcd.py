"""RDCD: roles of the views, queues, momentum student, gradients, resume."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from training_cases import coarse_pixels

from iscutils import training
from iscutils.files.artifacts import KitError
from iscutils.losses import HardNegative, InfoNCE, RelationalDistillation, queue_pairs, unit
from iscutils.models import Descriptor, DescriptorConfig, state_key
from iscutils.training.pixels import whole_views

BACKBONE = "mobilenetv3_small_050"
TEACHER = DescriptorConfig(backbone=BACKBONE, dim=16, size=32)
STUDENT = DescriptorConfig(backbone=BACKBONE, dim=8, size=32, hidden=16)


class FrozenTeacher(nn.Module):
    """A small descriptor that stays in eval mode, as every teacher does."""

    dim, size = TEACHER.dim, TEACHER.size

    def __init__(self, seed: int = 7):
        super().__init__()
        self.net = Descriptor(TEACHER, seed=seed)
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> FrozenTeacher:
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)


def settings(**changes) -> training.TrainConfig:
    given = dict(epochs=2, batch_size=8, size=32, rate=0.03, optimiser="sgd", precision="32-true")
    return training.TrainConfig(**{**given, "weight_decay": 1e-6, **changes})


def rdcd(config=None, steps=12, teacher=True, student=STUDENT, **options) -> training.RDCD:
    taught = FrozenTeacher() if teacher else None
    options = {"queue": 24, **options}
    return training.RDCD(Descriptor(student), config or settings(), steps, taught, **options)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """200 coarse random pictures."""
    return coarse_pixels(tmp_path_factory.mktemp("pixels"), 200)


@pytest.fixture(scope="module")
def batch():
    views = torch.rand(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return views, torch.arange(8)


# --- the loss


def test_loss_equals_its_parts_by_hand(batch):
    views, ids = batch
    method = rdcd(settings(path="images"))
    method.eval()  # batch norms without side effects, nothing is written
    parts = method.loss(views, ids)
    model, teacher = method.model, method.teacher
    wide, compact = model.expand(model.pooled(views[:, 1]))
    keys = method.momentum_student(views[:, 0])
    pairs = queue_pairs(unit(compact), ids, keys, *method.student_queue.content())
    vectors, _ = method.teacher_queue.content()
    expected = {
        "contrast": InfoNCE(0.07)(*pairs),
        "hard_negative": HardNegative(1e-3)(pairs[0], pairs[2]),
        "relation": RelationalDistillation(0.04)(teacher(views[:, 1]), unit(wide), vectors),
    }
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value.item(), rel=1e-5), name
    total = expected["contrast"] + 5 * expected["hard_negative"] + expected["relation"]
    assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-5)


def test_symmetric_is_both_ways_round(batch):
    views, ids = batch
    both = rdcd(settings(path="images"), symmetric=True).eval()
    one = rdcd(settings(path="images")).eval()
    swapped = views.flip(1)
    for name in ("contrast", "hard_negative", "relation"):
        mean = (one.loss(views, ids)[name] + one.loss(swapped, ids)[name]) / 2
        assert both.loss(views, ids)[name].item() == pytest.approx(mean.item(), rel=1e-4)
    both.train().loss(views, ids)
    assert int(both.student_queue.filled) == int(both.teacher_queue.filled) == 16


def test_rows_written_in_a_step_do_not_change_its_loss(batch):
    views, ids = batch
    first, second = (rdcd(settings(path="images")) for _ in range(2))
    second.student_queue.write = second.teacher_queue.write = lambda *_: None
    assert first.loss(views, ids)["loss"] == second.loss(views, ids)["loss"]
    assert torch.equal(first.student_queue.ids[:8], ids)
    assert int(second.student_queue.filled) == 0
    target = first.target(views[:, 1], ids)
    assert torch.allclose(first.teacher_queue.vectors[:8], target, atol=1e-5)
    assert torch.allclose(first.student_queue.vectors.norm(dim=1), torch.ones(24), atol=1e-5)


def test_gradients_reach_what_they_should(batch):
    views, ids = batch
    for option, reached in (({"contrast": 0.0}, False), ({"relation": 0.0}, True)):
        method = rdcd(settings(path="images"), **option)
        method.loss(views, ids)["loss"].backward()
        head = method.model.head
        trunk = next(method.model.backbone.parameters())
        assert trunk.grad.abs().sum() > 0
        assert head[0].weight.grad.abs().sum() > 0
        assert bool(head[1].weight.grad.any()) is reached
        for frozen in (method.teacher, method.momentum_student):
            assert all(p.grad is None for p in frozen.parameters())
        assert not any(buffer.requires_grad for buffer in method.buffers())


def test_only_the_student_is_optimised():
    method = rdcd()
    (optimiser,), _ = method.configure_optimizers()
    trained = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert trained == {id(p) for p in method.model.parameters()}


def test_the_momentum_student_follows_before_the_keys(batch):
    views, ids = batch
    method = rdcd(settings(path="images"))
    with torch.no_grad():
        for parameter in method.model.parameters():
            parameter.add_(0.1)
    new = [p.clone() for p in method.model.parameters()]
    old = [p.clone() for p in method.momentum_student.parameters()]
    statistics = dict(method.momentum_student.named_buffers())
    before = {name: value.clone() for name, value in statistics.items()}
    seen = []
    keys, method.keys = (
        method.keys,
        lambda views: (
            seen.append([p.clone() for p in method.momentum_student.parameters()]) or keys(views)
        ),
    )
    method.loss(views, ids)
    for slow, then, a, b in zip(
        method.momentum_student.parameters(), seen[0], old, new, strict=True
    ):
        assert torch.allclose(slow, 0.99 * a + 0.01 * b, atol=1e-7)
        assert torch.equal(slow, then)
    changed = [n for n, value in statistics.items() if not torch.equal(value, before[n])]
    assert any("running_mean" in name for name in changed)  # from its own forward pass


def test_without_a_teacher_the_same_student_learns_alone(batch):
    views, ids = batch
    alone, taught = (rdcd(settings(path="images"), teacher=t) for t in (False, True))
    assert state_key(alone.model) == state_key(taught.model)
    parts = alone.loss(views, ids)
    other = taught.loss(views, ids)
    assert "relation" not in parts
    assert alone.teacher_queue is None
    assert parts["contrast"] == other["contrast"]
    assert alone.key() != taught.key()
    assert taught.key() != rdcd(settings(path="images"), queue=32).key()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("same", [True, False])
def test_loss_is_finite_under_autocast(kind, same, batch, monkeypatch):
    method = rdcd(settings(path="images"))
    pooled = torch.rand(
        8, method.model.backbone.channels, generator=torch.Generator().manual_seed(0)
    )
    pooled = (pooled[:1].repeat(8, 1) if same else pooled).requires_grad_()
    monkeypatch.setattr(Descriptor, "pooled", lambda *_: pooled)  # trunks in fp16 are slow here
    if same:
        for queue in (method.student_queue, method.teacher_queue):
            queue.vectors.copy_(queue.vectors[:1].clone())
    with torch.autocast("cpu", dtype=kind):
        assert method.model.expand(pooled)[1].dtype == kind
        loss = method.loss(*batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pooled.grad).all()


# --- settings


def test_widths_and_queues_that_do_not_fit_name_the_remedy():
    with pytest.raises(KitError, match="hidden=16"):
        rdcd(student=DescriptorConfig(backbone=BACKBONE, dim=8, size=32, hidden=12))
    plain = rdcd(student=DescriptorConfig(backbone=BACKBONE, dim=16, size=32))
    assert plain.model.config.hidden == 0  # the descriptor itself has the teacher's width
    with pytest.raises(KitError, match="set queue to 8 or more"):
        rdcd(queue=7)


def test_queue_is_an_eighth_of_the_images_at_most():
    assert len(rdcd(settings(batch_size=10, epochs=1), 100, queue=0).student_queue) == 125
    assert len(rdcd(queue=40).teacher_queue) == 40
    with pytest.raises(KitError, match="8th of about 48 training images"):
        rdcd(queue=0)
    large = training.teaching.queue_size(0, settings(batch_size=256, epochs=1), 3906, 8, 1)
    assert large == 65_536


# --- training


def test_a_short_training_learns_relations_and_keeps_the_teacher(pixels, tmp_path):
    config = settings(batch_size=20, epochs=2, ramp=0.0, strength=0.2, clip=5.0, warmup=0.2)
    teacher = FrozenTeacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = Descriptor(DescriptorConfig(backbone=BACKBONE, dim=64, size=32, hidden=16))
    method = training.RDCD(student, config, training.steps_of(pixels, config), teacher, queue=24)
    images = training.to_views(pixels.__getitems__(list(range(64)))[0])
    images = nn.functional.interpolate(images, (32, 32))
    reference = unit(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))

    def relation():
        student.train()  # batch statistics: the running ones are young after 20 steps
        with torch.no_grad():
            wide, _ = student.expand(student.pooled(images))
            return RelationalDistillation(0.04)(teacher(images), unit(wide), reference).item()

    start = relation()
    watched = []

    def probe(_model):
        watched.append(teacher.training)
        return {"uap": 0.0}

    folder = training.fit(method, pixels, tmp_path, "s", "cpu", probe)
    history = training.read_history(folder)
    assert len(history) == 20
    assert np.isfinite(history[["loss", "contrast", "hard_negative", "relation"]]).all().all()
    assert relation() < start
    assert watched == [False] * 3
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any("teacher." in name for name in method.state_dict())
    assert history.gradient_norm.notna().all()
    ends = history.dropna(subset="directions")
    assert list(ends.step) == [9, 19]
    assert ends.directions.between(1, 64).all()
    assert ends.mean_norm.between(0, 1).all()
    assert (folder / "training.safetensors").exists()


class Killed(Exception):
    pass


def test_a_killed_training_ends_as_an_unbroken_one(pixels, tmp_path):
    calls = []

    def dying(_model):
        calls.append(len(calls))
        if len(calls) == 3:  # at the end of the second epoch
            raise Killed
        return {"uap": 0.0}

    config = settings(epochs=3, batch_size=40)
    steps = training.steps_of(pixels, config)

    def start():
        return rdcd(config, steps, queue=50)

    unbroken, resumed = start(), start()
    whole = training.fit(unbroken, pixels, tmp_path / "a", "m", "cpu")
    with pytest.raises(Killed):
        training.fit(start(), pixels, tmp_path / "b", "m", "cpu", dying)
    again = training.fit(resumed, pixels, tmp_path / "b", "m", "cpu", dying)
    one, two = unbroken.state_dict(), resumed.state_dict()
    assert int(one["student_queue.pointer"]) == 0  # 600 rows in 50 entries
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    pd.testing.assert_frame_equal(training.read_history(whole), training.read_history(again))
    restored = start()
    training.fit(restored, pixels, tmp_path / "b", "m", "cpu")
    assert torch.equal(restored.student_queue.vectors, one["student_queue.vectors"])
    slow = "momentum_student.head.1.weight"
    assert torch.equal(restored.state_dict()[slow], one[slow])


def test_a_student_of_the_teachers_kind_starts_as_the_teacher_cut_by_pca(pixels, tmp_path):
    teacher = Descriptor(TEACHER, seed=7).eval()
    folder = teacher.save(tmp_path / "teacher")
    student = training.start_student(STUDENT, folder, pixels)
    images = whole_views(pixels, range(len(pixels)), 32)
    with torch.inference_mode():
        given = teacher(images)
        wide, compact = student.expand(student.pooled(images))
        torch.testing.assert_close(unit(wide), given)
        compact = student.head[1](unit(wide))
    values = torch.linalg.svdvals(given)
    torch.testing.assert_close(compact.square().sum(), values[: STUDENT.dim].square().sum())
    weight = student.head[1].weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(STUDENT.dim))
    again = training.start_student(STUDENT, folder, pixels)
    assert state_key(again) == state_key(student)  # or no training could be continued


def test_other_students_start_as_their_weights_say(pixels, tmp_path):
    assert state_key(training.start_student(STUDENT, None, pixels, 3)) == state_key(
        Descriptor(STUDENT, seed=3)
    )
    narrow = Descriptor(DescriptorConfig(backbone=BACKBONE, dim=12, size=32), seed=7)
    folder = narrow.save(tmp_path / "narrow")
    student = training.start_student(STUDENT, folder, pixels, 3)
    assert state_key(student.backbone) == state_key(narrow.backbone)
    assert state_key(student.head) == state_key(Descriptor(STUDENT, seed=3).head)
