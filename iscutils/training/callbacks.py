"""What every training does around its steps: a progress bar, and one checkpoint that is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from tqdm import tqdm


class Progress(L.Callback):
    """One bar over all steps, on stderr, so that notebooks keep their outputs free of it.

    The module has `total_steps` and a `history`, a row of which knows its `loss`.
    """

    def __init__(self, description: str = "train"):
        self.description = description

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.bar = tqdm(
            total=module.total_steps,
            initial=trainer.global_step,
            desc=self.description,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.bar.update(trainer.global_step - self.bar.n)
        self.bar.set_postfix(epoch=trainer.current_epoch, loss=f"{module.history[-1]['loss']:.3f}")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.bar.close()

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, error: BaseException
    ) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


class KeepLast(Checkpoint):
    """One checkpoint, written whole after every epoch; Lightning calls this callback last."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)  # on every process; the first one writes
        if trainer.is_global_zero:
            os.replace(part, self.path)
        trainer.strategy.barrier()
