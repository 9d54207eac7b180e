"""Teachers: frozen for good, whoever holds them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.models import (
    Descriptor,
    DescriptorConfig,
    Ensemble,
    Teacher,
    load,
    open_teacher,
)

SMALL = DescriptorConfig(backbone="resnet10t", dim=16, size=64)


class Student(nn.Module):
    """Holds its teacher in a list, as training methods do."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16))
        self.teachers = [teacher]

    def forward(self, images):
        return F.normalize(self.net(images).mean((2, 3)), dim=1)


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_twenty_steps_leave_the_teacher_as_it_was():
    teacher = Teacher(Descriptor(SMALL))
    before = bits(teacher)
    assert sum("num_batches_tracked" in name for name in before) > 5
    student = Student(teacher)
    optimiser = torch.optim.SGD(student.parameters(), 0.1)
    registered = nn.ModuleDict({"teacher": teacher})  # the worst holder: it switches its children
    for step in range(20):
        for holder in (student, registered):
            holder.train()
        images = torch.rand(4, 3, 64, 64)
        loss = (student(images) * teacher(images)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 5 == 4:  # validation
            for holder in (student, registered):
                holder.eval()
            with torch.no_grad():
                teacher(images)
    registered.train()
    assert not any(part.training for part in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_a_holder_neither_stores_nor_trains_its_teacher():
    student = Student(Teacher(Descriptor(SMALL)))
    assert all(name.startswith("net.") for name in student.state_dict())
    assert len(list(student.parameters())) == 4


def test_another_handle_cannot_put_the_teacher_into_training_mode():
    network = Descriptor(SMALL)
    teacher, before = Teacher(network), bits(network)
    network.train()
    rows = teacher(torch.rand(4, 3, 64, 64))
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in bits(network).items())
    assert torch.allclose(rows.norm(dim=1), torch.ones(4), atol=1e-5)


class Raw(nn.Module):
    """A network whose rows are not normalised, in half precision."""

    dim, size = 12, 4

    def __init__(self):
        super().__init__()
        self.seen = []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return (7 * self.scale * images[:, :, :2, :2]).flatten(1).bfloat16()


def test_rows_are_normalised_in_float32_without_gradient():
    teacher = Teacher(Raw())
    rows = teacher(torch.rand(5, 3, 9, 9, requires_grad=True))
    assert (rows.dtype, rows.requires_grad, rows.shape) == (torch.float32, False, (5, 12))
    assert torch.allclose(rows.norm(dim=1), torch.ones(5), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(torch.rand(5, 3, 9, 9)).dtype == torch.float32
    # Usable in a graph, as keys of a loss are.
    free = torch.zeros(5, 12, requires_grad=True)
    (free * rows).sum().backward()
    assert torch.equal(free.grad, rows)


def test_resize_brings_views_to_the_teachers_size():
    network = Raw()
    Teacher(network)(torch.rand(1, 3, 9, 7))
    Teacher(network, resize=True)(torch.rand(1, 3, 9, 7))
    assert network.seen == [(9, 7), (4, 4)]


def test_what_cannot_teach():
    with pytest.raises(KitError, match=r"Linear cannot teach.*'dim'"):
        Teacher(nn.Linear(2, 2))


def test_an_ensemble_weighs_similarities():
    parts = [Teacher(Descriptor(SMALL)), Teacher(Raw(), resize=True)]
    both, images = Ensemble(parts, [1, 2]), torch.rand(4, 3, 64, 64)
    rows = both(images)
    assert (both.dim, both.size, rows.shape) == (28, 64, (4, 28))
    assert torch.allclose(rows.norm(dim=1), torch.ones(4), atol=1e-5)
    first, second = (part(images) @ part(images).T for part in parts)
    assert torch.allclose(rows @ rows.T, (first + 4 * second) / 5, atol=1e-5)
    assert not any(part.training for part in both.train().modules())
    assert both.parameter_count() == sum(part.parameter_count() for part in parts)
    for wrong in ([1], [1, 0]):
        with pytest.raises(KitError, match="weight above 0"):
            Ensemble(parts, wrong)


def test_teachers_by_path_alone_or_joined(tmp_path):
    first = Descriptor(SMALL, seed=1).save(tmp_path / "a+b")
    second = Descriptor(SMALL, seed=2).save(tmp_path / "d")
    images = torch.rand(3, 3, 64, 64)
    alone, other = open_teacher(first), open_teacher(str(second))
    assert (alone.name, alone.dim, alone.size) == ("resnet10t-16d", 16, 64)
    assert torch.allclose(other(images), load(second)(images), atol=1e-5)
    both = open_teacher(f"{second} + {second}", resize=True, weights=[1, 1])
    assert both.name == "resnet10t-16d+resnet10t-16d"
    assert isinstance(both, Ensemble)
    assert all(teacher.resize for teacher in both.teachers)
    expected = torch.cat([other(images), other(images)], dim=1) / 2**0.5
    assert torch.allclose(both(images), expected, atol=1e-5)
    with pytest.raises(KitError, match="nothing-here"):
        open_teacher(f"{second}+nothing-here")
