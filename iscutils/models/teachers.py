"""Teachers of a distillation: descriptor networks that are frozen for good."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError, Run, find_local
from iscutils.models.loading import find_model, load


class Teacher(nn.Module):
    """A frozen descriptor: images (B, 3, H, W) in [0, 1] -> unit rows (B, dim) float32.

    Its weights take no gradient, and it is in eval mode whatever `train()` says to whoever holds
    it, so that batch norms neither use nor change with the batches it sees.

    Hold it in a list (`self.teachers = [teacher]`), not as an attribute: a plain list is no
    sub-module, so optimiser, checkpoints, distributed wrapper and batch-norm conversion do not see
    it. The holder then moves it: `self.teachers[0].to(device)`.

    Args:
        module: gives (B, dim) for images in [0, 1], and has `.dim` and `.size` (pixels). It is
            frozen itself, not copied.
        resize: bring images to size x size first; otherwise it sees them as they come.
    """

    def __init__(self, module: nn.Module, resize: bool = False):
        super().__init__()
        for fact in ("dim", "size"):
            if not isinstance(getattr(module, fact, None), int):
                raise KitError(
                    f"{type(module).__name__} cannot teach: it has no whole number '{fact}'; use a "
                    "Descriptor, or a module with .dim (values) and .size (pixels)"
                )
        self.module, self.resize = module.requires_grad_(False), resize
        self.eval()

    @property
    def dim(self) -> int:
        return self.module.dim

    @property
    def size(self) -> int:
        return self.module.size

    @property
    def name(self) -> str:
        return getattr(self.module, "name", type(self.module).__name__)

    @property
    def mean(self) -> torch.Tensor:
        """Mean of the image normalisation; lies on the teacher's device."""
        return self.module.mean

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit rows (B, dim) float32, without gradient, of images (B, 3, H, W) in [0, 1]."""
        if any(part.training for part in self.module.modules()):  # someone else's handle on it
            self.eval()
        return F.normalize(self._rows(images).float(), dim=1)

    def _rows(self, images: torch.Tensor) -> torch.Tensor:
        if self.resize and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(
                images.float(), (self.size, self.size), mode="bilinear", antialias=True
            ).clamp(0, 1)
        return self.module(images)


class Ensemble(Teacher):
    """Several teachers as one: their unit rows, weighted, one after the other, normalised.

    The inner product of two rows is the mean of the teachers' inner products, weighted by the
    squares of `weights`.

    Args:
        teachers: each sees the images as its own `resize` says.
        weights: one above 0 for each teacher; all equal when not given.
    """

    def __init__(self, teachers: Sequence[nn.Module], weights: Sequence[float] | None = None):
        weights = [1.0] * len(teachers) if weights is None else list(weights)
        if not teachers or len(weights) != len(teachers) or min(weights) <= 0:
            raise KitError(
                f"{len(teachers)} teachers with weights {weights}: give at least one teacher, and "
                "one weight above 0 for each"
            )
        super().__init__(_Together(teachers, weights))

    @property
    def teachers(self) -> list[Teacher]:
        return list(self.module.teachers)


class _Together(nn.Module):
    def __init__(self, teachers: Sequence[nn.Module], weights: Sequence[float]):
        super().__init__()
        frozen = [t if isinstance(t, Teacher) else Teacher(t) for t in teachers]
        self.teachers, self.weights = nn.ModuleList(frozen), tuple(weights)
        self.dim = sum(teacher.dim for teacher in frozen)
        self.size = max(teacher.size for teacher in frozen)
        self.name = "+".join(teacher.name for teacher in frozen)

    @property
    def mean(self) -> torch.Tensor:
        return self.teachers[0].mean

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.teachers, self.weights, strict=True)
        return torch.cat([weight * teacher(images) for teacher, weight in pairs], dim=1)


def open_teacher(
    name: str | Path,
    run: Run | None = None,
    resize: bool = False,
    weights: Sequence[float] | None = None,
) -> Teacher:
    """Teacher by whatever `find_model` finds, or several joined by `+`: `"sscd+dino_vitb16"`.

    Args:
        run: whose models may be named too.
        resize: each teacher sees the images at its own size, see `Teacher`; those that take one
            size alone always do.
        weights: of the teachers of an ensemble, see `Ensemble`.
    """
    if find_local(name, run) is not None:
        parts = [str(name)]  # a path may hold a plus sign of its own
    else:
        parts = [part for part in re.split(r"\s*\+\s*", str(name).strip()) if part]
    networks = [load(find_model(part, run)) for part in parts]
    teachers = [Teacher(model, resize or getattr(model, "one_size", False)) for model in networks]
    if len(teachers) == 1 and weights is None:
        return teachers[0]
    return Ensemble(teachers, weights)
