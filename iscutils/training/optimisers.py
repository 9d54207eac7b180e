"""Optimisers and the learning-rate schedule the systems share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.optim import Optimizer

from iscutils.files.artifacts import KitError


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling as SSCD trains with it.

    For a parameter p with gradient g, both not zero:
        g' = trust |p| / (|g| + decay |p| + 1e-8) (g + decay p),   otherwise g' = g
        buffer = momentum buffer + g',   p = p - rate buffer
    One group, all parameters, biases and norms included, as SSCD is trained; a group with trust 0
    takes plain g. Source: You et al., "Large Batch Training of Convolutional Networks", 2017;
    SSCD's released settings.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        gradient, decay = parameter.grad, group["weight_decay"]
        weight_norm, gradient_norm = parameter.norm(), gradient.norm()
        if group["trust"] and weight_norm > 0 and gradient_norm > 0:
            scale = group["trust"] * weight_norm / (gradient_norm + decay * weight_norm + 1e-8)
            gradient = (gradient + decay * parameter) * scale
        state = self.state[parameter]
        if "buffer" not in state:
            state["buffer"] = torch.zeros_like(parameter)
        state["buffer"].mul_(group["momentum"]).add_(gradient)
        parameter.add_(state["buffer"], alpha=-group["lr"])


def make_optimiser(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    rate: float,
    weight_decay: float,
    exclude_norms: bool = False,
) -> Optimizer:
    """Optimiser by name: `adamw`, `sgd` (momentum .9) or `lars`, for what has a gradient.

    `adamw` without weight decay is Adam.

    With `exclude_norms` biases and norm layers (tensors of one dimension) form a group of their
    own, without weight decay and, in LARS, without scaling.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [{"params": parameters}]
    if exclude_norms:
        flat = {"weight_decay": 0.0, **({"trust": 0.0} if name == "lars" else {})}
        groups = [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1], **flat},
        ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=weight_decay)
    if name == "lars":
        return LARS(groups, lr=rate, weight_decay=weight_decay)
    raise KitError(f"optimiser '{name}' is unknown: choose adamw, sgd or lars")


def scaled_rate(base: float, global_batch: int) -> float:
    """Learning rate for a global batch in images: base x batch / 256.

    Published bases: .3 for SSCD and kd_icd with LARS, 1 for RDCD with SGD.
    """
    return base * global_batch / 256


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Share of the base rate: 0 at step 0, 1 at step warmup - 1, then half a cosine to 0."""
    if step < warmup:
        return step / max(1, warmup - 1)
    done = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def plateau_cosine(epoch: int, epochs: int) -> float:
    """Share of the base rate in an epoch: .01 rising to 1 in the first fifth, 1 for a second fifth,
    then half a cosine to 0.

    D2LV's author trains 25 epochs so: 5 of warm-up, 5 at the full rate, 15 of cosine (open recipes
    of later work; unverified for D2LV itself).
    """
    at = 25 * epoch / epochs
    if at < 5:
        return 0.01 + 0.99 * at / 5
    return 0.5 * (1 + math.cos(math.pi * max(0.0, at - 10) / 15))
