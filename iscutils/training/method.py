"""What every training method shares: views, schedule, per-step randomness, history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import numpy as np
import torch

from iscutils.edits import load_recipe
from iscutils.edits.tensor import TensorEdits
from iscutils.files.artifacts import KitError, content_key
from iscutils.losses import MemoryQueue, rank
from iscutils.models import Descriptor, state_key
from iscutils.training.optimisers import make_optimiser, plateau_cosine, warmup_cosine
from iscutils.training.pixels import to_views
from iscutils.training.watch import Recent, spread


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run, the same for every method."""

    epochs: int = 10
    batch_size: int = 128  # images a process and step; each gives its views, labelled ones one
    size: int = 80  # side of a view in pixels
    rate: float = 2e-3  # learning rate at its highest; see `scaled_rate`
    optimiser: str = "adamw"  # adamw, sgd or lars
    weight_decay: float = 1e-2
    exclude_norms: bool = False  # biases and norm layers without decay, and without LARS scaling
    freeze: int = 0  # first stages of the backbone that stay as they start, see `Backbone.freeze`
    clip: float = 0.0  # longest gradient, larger ones are shortened; 0: as they are
    schedule: str = "cosine"  # of the rate: "cosine" by steps; "d2lv" by epochs, `plateau_cosine`
    warmup: float = 0.05  # share of all steps, of schedule "cosine"
    strength: float = 1.0  # of the edits, at its highest
    ramp: float = 0.5  # share of all steps over which the edits grow from 0.3 to full strength
    mild_first: bool = True  # the first view is nearly unedited, as a reference is
    seed: int = 0
    devices: int = 1  # processes that train together, on all machines
    precision: str = "auto"  # auto, 32-true or bf16-mixed
    recipe: str = "training"  # of the edits
    # "tensor": cached pixels, edited as whole batches; "images": one file at a time; "labelled":
    # the finished pictures of a synthesised set; "stored": views edited and taught once
    path: str = "tensor"
    views: int = 2  # of an image in a step, for methods that learn classes; the others take two
    workers: int = 0  # loader processes of path "images"; 0: none, in this process


def strength_at(progress: float, config: TrainConfig) -> float:
    """Strength of the edits after a share 0..1 of all steps."""
    ramp = min(1.0, progress / config.ramp) if config.ramp else 1.0
    return config.strength * (0.3 + 0.7 * ramp)


def seeded(device: torch.device, *stream: int) -> torch.Generator:
    """Random numbers of torch that whole numbers decide, as NumPy's `default_rng([...])` has it."""
    state = np.random.SeedSequence(stream).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))


class Method(L.LightningModule):
    """A training method: `loss(images, ids) -> {name: value}` with the total under `loss`.

    Images are photographs, edited here as a batch, or pairs of views that were edited before.

    Random numbers come from (seed, step, process): a resumed run draws what an unbroken one does.
    The history of every step, and what a probe measured, are part of the checkpoint. The last step
    of an epoch also has what `spread` says of the epoch's latest descriptors.

    Attributes:
        paths: what the method can be trained on, see `TrainConfig.path`.
    """

    paths: tuple[str, ...] = ("tensor", "images")
    model: Descriptor

    def __init__(self, config: TrainConfig, total_steps: int, **settings: Any):
        super().__init__()
        self.config, self.total_steps = config, max(1, total_steps)
        self.settings = settings
        self.recipe = load_recipe(config.recipe)
        if config.path not in self.paths:
            raise KitError(
                f"training path '{config.path}' is unknown to {type(self).__name__}: choose "
                f"{' or '.join(self.paths)}"
            )
        if config.path == "tensor":
            first = "original" if config.mild_first else "group"
            self.mild_edits = TensorEdits(self.recipe, config.size, first)
            self.edits = TensorEdits(self.recipe, config.size)
        self.history: list[dict[str, float]] = []
        self.probes: list[dict[str, float]] = []
        self.recent = Recent()

    def key(self) -> str:
        """Ten hexadecimal digits of everything but the images that decides the trained weights."""
        config = asdict(self.config)
        del config["workers"]  # changes the speed alone
        if not config["freeze"]:  # models that froze nothing keep their names
            del config["freeze"]
        recipe = self.recipe.key()
        return content_key(type(self).__name__, config, recipe, self.settings, state_key(self))

    def loss(
        self, images: torch.Tensor, ids: torch.Tensor, *known: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Loss and its parts for a batch in [0, 1] with ids (n,).

        images: photographs (n, 3, H, W), or finished views of each, (n, V, 3, S, S). known: what
        else the training data know of each image, see `data.Examples`.
        """
        raise NotImplementedError

    @property
    def finished(self) -> Descriptor:
        """The network as it would be saved now: what a probe measures."""
        return self.model

    def finish(self) -> None:
        """Called once after the training: bring `model` to what is saved."""

    def kept(self) -> dict[str, torch.Tensor]:
        """What the folder of the model keeps beside the model, for training alone."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("model.")}

    def progress(self) -> float:
        """Share of all steps that are done, 0 to 1."""
        return min(1.0, self.global_step / self.total_steps)

    def two_views(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two independently edited views of each image, both (n, 3, size, size)."""
        if images.ndim == 5:
            return images[:, 0], images[:, 1]
        generator = self.generator(images.device)
        strength = strength_at(self.progress(), self.config)
        with torch.autocast(images.device.type, enabled=False):  # pixels keep float32
            first = self.mild_edits(images, generator, strength)
            return first, self.edits(images, generator, strength)

    def generator(self, device: torch.device, *stream: int) -> torch.Generator:
        """Random numbers of this step and process; `stream` tells several uses apart."""
        return seeded(device, self.config.seed, self.global_step, rank(), *stream)

    def setup(self, stage: str) -> None:
        # Queues hold the same rows on every process: sending them at every step would be waste.
        self._ddp_params_and_buffers_to_ignore = [
            f"{name}.{buffer}"
            for name, module in self.named_modules()
            if isinstance(module, MemoryQueue)
            for buffer, _ in module.named_buffers()
        ]

    def training_step(self, batch, _index: int) -> torch.Tensor:
        pixels, ids, *known = batch
        # Dropout and WaveBlock draw from torch's own state: a resumed run draws as an unbroken one.
        torch.manual_seed(self.generator(torch.device("cpu"), 9).initial_seed())
        parts = self.loss(to_views(pixels), ids, *known)
        row = {name: float(value.detach()) for name, value in parts.items()}
        self.history.append({"step": self.global_step, **row})
        return parts["loss"]

    def on_train_epoch_end(self) -> None:
        rows = self.recent.take()
        if rows is not None and self.history:
            self.history[-1].update(spread(rows))

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        if self.config.clip:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.clip)
            self.history[-1]["gradient_norm"] = float(norm)  # before it is shortened

    def configure_optimizers(self):
        config = self.config
        optimiser = make_optimiser(
            config.optimiser,
            self.parameters(),
            config.rate,
            config.weight_decay,
            config.exclude_norms,
        )
        share, interval = self._schedule()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
        return [optimiser], [{"scheduler": schedule, "interval": interval}]

    def _schedule(self) -> tuple[Callable[[int], float], str]:
        """Share of the rate by the number of steps or epochs done, and which of both."""
        config = self.config
        if config.schedule == "cosine":
            warmup = int(config.warmup * self.total_steps)
            return lambda step: warmup_cosine(step, warmup, self.total_steps), "step"
        if config.schedule == "d2lv":
            return lambda epoch: plateau_cosine(epoch, config.epochs), "epoch"
        raise KitError(f"schedule '{config.schedule}' is unknown: choose cosine or d2lv")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["history"], checkpoint["probes"] = self.history, self.probes

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history, self.probes = checkpoint["history"], checkpoint["probes"]
