"""Train the overlay detector: pictures made from photographs, Lightning, held-out measures."""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from iscutils.descriptors.boxes import CLASSES, write_detections, write_images
from iscutils.detector.box_quality import average_precision, choose_points, measure_points
from iscutils.detector.networks import (
    DetectorConfig,
    build_network,
    find_boxes,
    resolve_config,
    to_input,
    to_original,
)
from iscutils.detector.pictures import Pictures, make_pictures, open_loader
from iscutils.detector.scaled import scale_picture
from iscutils.edits.making import VERSION as EDITS_VERSION
from iscutils.files.artifacts import KitError, atomic_path, content_key, log, write_json
from iscutils.files.executor import Executor
from iscutils.files.images import ImageSet
from iscutils.models import model_key
from iscutils.models.precision import pick_device, pick_precision
from iscutils.training.callbacks import KeepLast, Progress
from iscutils.training.optimisers import make_optimiser, warmup_cosine

VERSION = 1  # raise when the training changes its results
CLIP = 10.0  # longest gradient: the first steps of a random network give longer ones


def train_detector(
    images: ImageSet,
    config: DetectorConfig,
    out: str | Path,
    executor: Executor,
    device: str = "auto",
) -> Path:
    """Train an overlay detector on pictures made from photographs; return its model folder.

    Args:
        images: photographs for training. A tenth of them is held out, for measuring.
        config: settings, from `detector_config`.
        out: folder of the models; this one is `detector-<key>`, its pictures lie beside it. What
            is finished is not done again; a killed training continues at its last finished epoch.
        executor: makes the pictures; on a GPU as many loader processes read them.
        device: auto, cpu or cuda.

    Returns:
        Folder with config.json, model.safetensors, history.csv (loss of each step), epochs.csv
        (average precision on held-out pictures), held_out.csv (detections there) with their true
        boxes, and metrics.json: `ap` by class at an intersection over union of 0.5, `points` (the
        two thresholds of `choose_points`) and what they mean.
    """
    config, chosen = resolve_config(config), pick_device(device)
    network = build_network(config).to(memory_format=torch.channels_last)
    precision = pick_precision(config.precision, chosen, network)
    start = model_key(config.trunk) if config.trunk not in ("", "imagenet") else ""
    settings = {**asdict(config), "trunk": start or config.trunk}
    key = content_key(VERSION, EDITS_VERSION, settings, images.key(), precision)
    folder = Path(out) / f"detector-{key}"
    if (folder / "model.safetensors").exists():
        log.info("%s is trained already", folder.name)
        return folder
    train, held_out = make_pictures(images, config, out, executor)
    if len(train.images) < config.batch_size:
        raise KitError(
            f"batch_size {config.batch_size} is larger than the {len(train.images)} pictures for "
            "training: lower it, or make more pictures"
        )
    checkpoints = folder.with_name(f".{folder.name}.checkpoints")
    last = checkpoints / "last.ckpt"
    if last.exists():
        log.info("continuing %s from its last finished epoch", folder.name)
    workers = executor.workers if chosen.type == "cuda" and executor.workers > 1 else 0
    training = _Training(network, config, len(train.images) // config.batch_size, held_out)
    _fit(training, open_loader(train, config, workers), chosen, precision, last)
    training.network.to(chosen)
    _save(training, folder, config)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return folder


def _fit(
    training: _Training, loader: DataLoader, device: torch.device, precision: str, last: Path
) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    L.seed_everything(training.config.seed, verbose=False)
    trainer = L.Trainer(
        max_epochs=training.config.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
        gradient_clip_val=CLIP,
        use_distributed_sampler=False,
        callbacks=[Progress("train detector"), KeepLast(last)],
        enable_progress_bar=False,
        logger=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        resumed = last if last.exists() else None
        trainer.fit(training, loader, ckpt_path=resumed, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


def _save(training: _Training, folder: Path, config: DetectorConfig) -> None:
    """Measure the detector on the held-out pictures a last time and write its folder."""
    held_out, found = training.held_out, training.detect_held_out()
    points = choose_points(found, held_out.truth, held_out.sizes)
    measured = measure_points(found, held_out.truth, held_out.sizes).set_index("threshold")
    meaning = {
        name: measured.loc[value].to_dict() if value in measured.index else {}
        for name, value in points.items()
    }
    ap = {kind: average_precision(found, held_out.truth, kind) for kind in CLASSES}
    state = {name: value.detach().cpu().contiguous()
             for name, value in training.network.state_dict().items()}  # fmt: skip
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "config.json", asdict(config))
        metrics = {"ap": ap, "points": points, "measured": meaning}
        write_json(temporary / "metrics.json", metrics)
        pd.DataFrame(training.history).to_csv(temporary / "history.csv", index=False)
        pd.DataFrame(training.measures).to_csv(temporary / "epochs.csv", index=False)
        write_detections(found, temporary / "held_out.csv")
        write_images(held_out.images, held_out.sizes, temporary / "held_out.csv")
        held_out.truth.to_csv(temporary / "held_out-boxes.csv", index=False)
        save_file(state, temporary / "model.safetensors")


class _Training(L.LightningModule):
    """Minimises the sum of the network's own losses; measures it after every epoch."""

    def __init__(self, network: nn.Module, config: DetectorConfig, steps: int, held_out: Pictures):
        super().__init__()
        self.network, self.config, self.held_out = network, config, held_out
        self.total_steps = steps * config.epochs
        self.history: list[dict[str, Any]] = []
        self.measures: list[dict[str, Any]] = []

    def training_step(self, batch: tuple[list, list], index: int) -> torch.Tensor:
        pixels, targets = batch
        losses = self.network([to_input(picture) for picture in pixels], targets)
        total = sum(losses.values())
        parts = {name: value.detach().item() for name, value in losses.items()}
        self.history.append({"step": self.global_step + 1, "loss": total.detach().item(), **parts})
        return total

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.config
        optimiser = make_optimiser(
            config.optimiser, self.network.parameters(), config.rate, config.weight_decay
        )
        warmup = min(config.warmup, self.total_steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: warmup_cosine(step, warmup, self.total_steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_end(self) -> None:
        found = self.detect_held_out()
        ap = {f"ap_{k}": average_precision(found, self.held_out.truth, k) for k in CLASSES}
        self.measures.append({"epoch": self.current_epoch + 1, "step": self.global_step, **ap})
        self.network.train()

    def detect_held_out(self) -> pd.DataFrame:
        """Detections in the held-out pictures, in px of their files."""
        images, found = self.held_out.images, []
        for start in range(0, len(images), self.config.batch_size):
            indices = range(len(images))[start : start + self.config.batch_size]
            pixels = [scale_picture(images.load(i), self.config.size) for i in indices]
            tables = find_boxes(self.network, pixels, next(self.network.parameters()).device)
            for i, picture, table in zip(indices, pixels, tables, strict=True):
                name = images.ids[i]
                found.append(to_original(table, picture.shape, self.held_out.sizes[name], name))
        return pd.concat(found, ignore_index=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tables"] = [self.history, self.measures]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history, self.measures = checkpoint["tables"]
