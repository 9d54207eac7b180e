"""What every training method shares: views, schedule, per-step randomness, history."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import lightning as L
import numpy as np
import torch

from iscutils.artifacts import content_key
from iscutils.edits.tensor import MILD, TensorEdits, ViewConfig
from iscutils.losses import rank
from iscutils.models import state_key
from iscutils.training.optimisers import make_optimiser, warmup_cosine
from iscutils.training.pixels import to_views


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run, the same for every method."""

    epochs: int = 10
    batch_size: int = 128  # images a process and step; each gives two views
    size: int = 80  # side of a view in pixels
    rate: float = 2e-3  # learning rate at its highest
    optimiser: str = "adamw"  # adamw, sgd or lars
    weight_decay: float = 1e-2
    warmup: float = 0.05  # share of all steps
    strength: float = 1.0  # of the edits, at its highest
    ramp: float = 0.5  # share of all steps over which the edits grow from 0.3 to full strength
    mild_first: bool = True  # the first view is nearly unedited, as a reference is
    seed: int = 0
    devices: int = 1
    precision: str = "auto"  # auto, 32-true or bf16-mixed
    views: ViewConfig = field(default_factory=ViewConfig)


class Method(L.LightningModule):
    """A training method: `loss(images, ids) -> {name: value}` with the total under `loss`.

    Random numbers come from (seed, step, process): a resumed run draws what an unbroken one does.
    The history of every step, and what a probe measured, are part of the checkpoint.
    """

    def __init__(self, config: TrainConfig, total_steps: int, **settings: Any):
        super().__init__()
        self.config, self.total_steps = config, max(1, total_steps)
        self.settings = settings
        self.edits = TensorEdits(config.views, config.size)
        self.mild_edits = TensorEdits(MILD if config.mild_first else config.views, config.size)
        self.history: list[dict[str, float]] = []
        self.probes: list[dict[str, float]] = []

    def key(self) -> str:
        """Ten hexadecimal digits of everything but the images that decides the trained weights."""
        config = {name: value for name, value in asdict(self.config).items() if name != "devices"}
        return content_key(type(self).__name__, config, self.settings, state_key(self))

    def loss(self, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and its parts for images (n, 3, H, W) in [0, 1] with ids (n,)."""
        raise NotImplementedError

    def progress(self) -> float:
        """Share of all steps that are done, 0 to 1."""
        return min(1.0, self.global_step / self.total_steps)

    def two_views(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two independently edited views of each image, both (n, 3, size, size)."""
        generator = torch.Generator(images.device)
        entropy = np.random.SeedSequence([self.config.seed, self.global_step, rank()])
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        ramp = min(1.0, self.progress() / self.config.ramp) if self.config.ramp else 1.0
        strength = self.config.strength * (0.3 + 0.7 * ramp)
        with torch.autocast(images.device.type, enabled=False):  # pixels keep float32
            first = self.mild_edits(images, generator, strength)
            return first, self.edits(images, generator, strength)

    def training_step(self, batch, _index: int) -> torch.Tensor:
        pixels, ids = batch
        parts = self.loss(to_views(pixels), ids)
        row = {name: float(value.detach()) for name, value in parts.items()}
        self.history.append({"step": self.global_step, **row})
        return parts["loss"]

    def configure_optimizers(self):
        config = self.config
        optimiser = make_optimiser(
            config.optimiser, self.parameters(), config.rate, config.weight_decay
        )
        warmup = int(config.warmup * self.total_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: warmup_cosine(step, warmup, self.total_steps)
        )
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["history"], checkpoint["probes"] = self.history, self.probes

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history, self.probes = checkpoint["history"], checkpoint["probes"]
