"""kd_icd: SSCD's loss inside, the bank, which features imitate the teacher, resume."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from test_rdcd import (
    BACKBONE,
    FrozenTeacher,
    Killed,
    batch,
    pixels,
    settings,
)
from torch.nn import functional as F

from iscutils import training
from iscutils.files.artifacts import KitError
from iscutils.losses import InfoNCE, RelationalDistillation, global_pairs, unit
from iscutils.models import Descriptor, DescriptorConfig, load, state_key

__all__ = ["batch", "pixels"]  # fixtures

SAME = DescriptorConfig(backbone=BACKBONE, dim=16, size=32)  # the teacher's width
NARROW = DescriptorConfig(backbone=BACKBONE, dim=8, size=32)


def kd_icd(config=None, steps=12, teacher=True, student=SAME, **options) -> training.KdIcd:
    taught = FrozenTeacher() if teacher else None
    options = {"queue": 24, "entropy_from": 0.0, **options}
    config = config or settings(path="images")
    return training.KdIcd(Descriptor(student), config, steps, taught, **options)


# --- the loss


def test_loss_equals_its_parts_by_hand(batch):
    views, ids = batch
    method = kd_icd().eval()
    parts = method.loss(views, ids)
    both = torch.cat([views[:, 0], views[:, 1]])
    rows, target = method.model(both), method.teacher(both)
    similarity, positives, negatives = global_pairs(rows, torch.cat([ids, ids])[:, None])
    info_nce = InfoNCE(0.05)(similarity, positives, negatives)
    koleo = method.koleo(similarity, negatives)
    keys = torch.cat([target, method.bank.vectors])
    relation = RelationalDistillation(0.05)(target, rows, keys)
    assert parts["relation"].item() == pytest.approx(relation.item(), rel=1e-4)
    total = info_nce + 3 * koleo + relation
    assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-4)


def test_without_weights_it_is_sscd(batch):
    views, ids = batch
    method = kd_icd(relation=0.0, entropy=0.0).eval()
    plain = training.SSCD(Descriptor(SAME), settings(path="images"), 12, 0.05, 0.0, 0.0).eval()
    given, expected = method.loss(views, ids), plain.loss(views, ids)
    for name in ("loss", "info_nce", "koleo", "positive", "nearest_negative"):
        assert given[name].item() == pytest.approx(expected[name].item(), rel=1e-6)
    alone = kd_icd(teacher=False, entropy=0.0).eval().loss(views, ids)
    assert alone["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-6)
    assert "relation" not in alone


def test_relation_only_leaves_the_current_batch_out(batch):
    views, ids = batch
    method = kd_icd(relation_only=True).eval()
    both = torch.cat([views[:, 0], views[:, 1]])
    relation = RelationalDistillation(0.05)(
        method.teacher(both), method.model(both), method.bank.vectors
    )
    assert method.loss(views, ids)["relation"].item() == pytest.approx(relation.item(), rel=1e-4)


def test_published_is_a_tenth_of_the_cross_entropy(batch):
    views, ids = batch
    published = kd_icd(published=True, entropy=0.0).eval().loss(views, ids)
    kl = kd_icd(entropy=0.0).eval().loss(views, ids)
    assert published["relation"] > kl["relation"]  # by the teacher's entropy
    total = published["info_nce"] + 0.1 * published["relation"]
    assert published["loss"].item() == pytest.approx(total.item())


def test_the_bank_takes_both_views_after_the_loss(batch):
    views, ids = batch
    first, second = kd_icd(), kd_icd()
    second.bank.write = lambda *_: None
    assert first.loss(views, ids)["loss"] == second.loss(views, ids)["loss"]
    target = first.target(torch.cat([views[:, 0], views[:, 1]]), ids)
    assert torch.allclose(first.bank.vectors[:16], target, atol=1e-5)
    assert torch.equal(first.bank.ids[:16], torch.cat([ids, ids]))
    assert torch.allclose(first.bank.vectors.norm(dim=1), torch.ones(24), atol=1e-5)


def test_teacher_and_student_see_the_same_mixed_views(pixels, tmp_path):
    file = tmp_path / "mixed.yaml"
    file.write_text("draw: each\noperations:\n  hflip:\nmix: {probability: 0.5, alpha: 2.0}\n")
    method = kd_icd(settings(recipe=str(file)))
    seen = {}
    method.teacher.register_forward_pre_hook(lambda _, views: seen.update(teacher=views[0]))
    pooled = method.model.pooled
    method.model.pooled = lambda views: seen.update(student=views) or pooled(views)
    images, ids = pixels.__getitems__(list(range(8)))
    method.loss(training.to_views(images), ids)
    assert torch.equal(seen["teacher"], seen["student"])
    assert seen["student"].shape == (16, 3, 32, 32)


@pytest.mark.parametrize(
    ("student", "imitates"),
    [
        (SAME, "z"),
        (DescriptorConfig(backbone=BACKBONE, dim=8, size=32, hidden=16), "h"),
        (NARROW, "bridge"),
    ],
)
def test_what_imitates_the_teacher(student, imitates, batch):
    method = kd_icd(student=student)
    pooled = torch.rand(4, method.model.backbone.channels)
    wide, compact = method.model.expand(pooled)
    answer = method.answer(pooled, wide, compact)
    assert answer.shape == (4, 16)
    assert torch.allclose(answer.norm(dim=1), torch.ones(4), atol=1e-5)
    assert (method.bridge is not None) == (imitates == "bridge")
    if imitates != "bridge":
        assert torch.equal(answer, unit(wide))  # without a hidden layer h is z
    method.loss(*batch)["loss"].backward()
    assert all(p.grad is not None for p in method.parameters())  # as several processes need it
    assert all(p.grad is None for p in method.teacher.parameters())


def test_direct_contrast_leaves_entropy_and_relations_on_the_descriptor(batch):
    views, ids = batch
    method, plain = kd_icd(direct=True).eval(), kd_icd().eval()
    width = method.direct.width
    assert width == method.model.backbone.channels * 360 // 2048 // 8 * 8
    pooled = method.model.pooled(torch.cat([views[:, 0], views[:, 1]]))
    cut = F.normalize(pooled[:, :width], dim=1)
    expected = InfoNCE(0.1)(*global_pairs(cut, torch.cat([ids, ids])[:, None]))
    parts, others = method.loss(views, ids), plain.loss(views, ids)
    assert parts["info_nce"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert parts["koleo"] == others["koleo"]
    assert parts["relation"] == others["relation"]
    total = parts["info_nce"] + 3 * parts["koleo"] + parts["relation"]
    assert parts["loss"].item() == pytest.approx(total.item())
    assert method.key() != plain.key()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("same", [True, False])
def test_loss_is_finite_under_autocast(kind, same, batch, monkeypatch):
    method = kd_icd(direct=True)
    pooled = torch.rand(
        16, method.model.backbone.channels, generator=torch.Generator().manual_seed(0)
    )
    pooled = (pooled[:1].repeat(16, 1) if same else pooled).requires_grad_()
    monkeypatch.setattr(Descriptor, "pooled", lambda *_: pooled)
    if same:  # teacher and student identical too
        method.teacher.net.load_state_dict(method.model.state_dict())
    with torch.autocast("cpu", dtype=kind):
        loss = method.loss(*batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pooled.grad).all()


# --- settings


def test_the_bank_is_a_quarter_of_the_images_at_most():
    assert len(kd_icd(settings(batch_size=10, epochs=1), 100, queue=0).bank) == 250
    assert kd_icd(teacher=False, queue=0).bank is None
    with pytest.raises(KitError, match="set queue to 16 or more"):
        kd_icd(queue=15)
    with pytest.raises(KitError, match="4th of about 48"):
        kd_icd(queue=0)


# --- training


def test_entropy_pushes_nearest_neighbours_apart(pixels, tmp_path):
    nearest = []
    for weight in (0.0, 3.0):
        config = settings(epochs=3, batch_size=40, rate=0.05, strength=0.2)
        method = kd_icd(config, training.steps_of(pixels, config), entropy=weight, queue=80)
        history = training.read_history(training.fit(method, pixels, tmp_path, "s", "cpu"))
        nearest.append(history.nearest_negative.tail(3).mean())
    assert nearest[1] < nearest[0]


def test_training_keeps_the_teacher_and_saves_the_student_alone(pixels, tmp_path):
    config = settings(batch_size=20)
    method = kd_icd(config, training.steps_of(pixels, config), student=NARROW, queue=40)
    teacher = method.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes = []

    def probe(_model):
        modes.append(teacher.training)
        return {"uap": 0.0}

    folder = training.fit(method, pixels, tmp_path, "s", "cpu", probe)
    assert len(training.read_history(folder)) == 20
    assert modes == [False] * 3
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    student = load(folder)
    images = torch.rand(3, 3, 32, 32)
    assert torch.allclose(student(images), method.model(images), atol=1e-5)
    assert torch.allclose(student(images).norm(dim=1), torch.ones(3), atol=1e-5)
    assert not any("bridge" in name for name in student.state_dict())
    assert not any("teacher" in name for name in method.state_dict())


def test_a_killed_training_ends_as_an_unbroken_one(pixels, tmp_path):
    calls = []

    def dying(_model):
        calls.append(len(calls))
        if len(calls) == 3:
            raise Killed
        return {"uap": 0.0}

    config = settings(epochs=3, batch_size=40)
    steps = training.steps_of(pixels, config)

    def start():
        return kd_icd(config, steps, student=NARROW, queue=96)

    unbroken, resumed = start(), start()
    whole = training.fit(unbroken, pixels, tmp_path / "a", "m", "cpu")
    with pytest.raises(Killed):
        training.fit(start(), pixels, tmp_path / "b", "m", "cpu", dying)
    again = training.fit(resumed, pixels, tmp_path / "b", "m", "cpu", dying)
    assert int(unbroken.bank.pointer) == 1200 % 96
    assert state_key(unbroken) == state_key(resumed)
    pd.testing.assert_frame_equal(training.read_history(whole), training.read_history(again))
