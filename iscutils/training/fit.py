"""One `fit` for every method: Lightning trains, the finished model is a folder.

Several processes: `devices=4` starts four of them, from a notebook or a script. Under
`torchrun --nproc-per-node 4 [--nnodes 2] script.py`, `devices` is the number of all processes, here
4 or 8. Each takes `batch_size` images a step; losses and gradients are those of one process with
the whole batch, batch norms included on GPUs.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from iscutils.artifacts import KitError, content_key, log
from iscutils.edits.views import EditedViews, one_thread
from iscutils.images import ImageSet
from iscutils.models import Descriptor
from iscutils.training.method import Method, TrainConfig, strength_at
from iscutils.training.pixels import EpochSampler, Pixels

_KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # batches are read whole, from memory maps
    ".*in eval mode at the start of training.*",  # the teacher, on purpose
    ".*treespec, LeafSpec.*",  # Lightning's own use of torch
)


def steps_of(pixels: Pixels | EditedViews, config: TrainConfig) -> int:
    """Number of optimiser steps of a whole training run."""
    per_epoch = len(pixels) // (config.batch_size * config.devices)
    if per_epoch == 0:
        raise KitError(
            f"batch_size {config.batch_size} is larger than the {len(pixels)} training images "
            f"on {config.devices} device(s): lower it"
        )
    return per_epoch * config.epochs


def training_data(images: ImageSet, pixels: Pixels, config: TrainConfig) -> Pixels | EditedViews:
    """What `fit` trains on: the cached pixels, or for path "images" views of the same photographs.

    Those are made one by one from the files, with all edits there are, their strength rising by
    epochs; `pixels` then only says which photographs are trained on.
    """
    if config.path == "tensor":
        return pixels
    kept = set(pixels.ids)
    return open_views(
        images.subset([i for i, name in enumerate(images.ids) if name in kept]), config
    )


def open_views(images: ImageSet, config: TrainConfig) -> EditedViews:
    """Training data for path "images", see `training_data`."""
    strengths = [strength_at(epoch / config.epochs, config) for epoch in range(config.epochs)]
    return EditedViews(
        images,
        config.recipe,
        config.size,
        seed=config.seed,
        mild_first=config.mild_first,
        strengths=strengths,
    )


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is the first GPU when there is one, else the CPU; other names as torch knows them."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise KitError(f"device '{device}' is unknown: choose auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise KitError("device 'cuda' was asked for, but torch sees no GPU: choose auto or cpu")
    return chosen


def pick_precision(precision: str, device: torch.device, network: nn.Module) -> str:
    """bf16 where it is fast (GPUs since Ampere, CPUs with AVX512-BF16), else fp32.

    Depth-wise convolutions, as MobileNets have, are two to three times slower in bf16 on CPUs.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    depth_wise = any(layer.groups == layer.in_channels > 1 for layer in convolutions)
    return "bf16-mixed" if fast and not depth_wise else "32-true"


def fit(
    method: Method,
    pixels: Pixels | EditedViews,
    folder: str | Path,
    name: str,
    device: str = "auto",
    probe: Callable[[Descriptor], dict[str, float]] | None = None,
) -> Path:
    """Train a method and write its model folder; a killed run continues at its last epoch.

    Args:
        method: holds the network as `.model` and the `TrainConfig` as `.config`.
        pixels: training images; for path "images" what `open_views` gives.
        folder: where models live; this one is `<name>-<key>`, the key covering start weights,
            settings and images. If it exists, nothing is trained.
        name: first part of the model's name.
        device: `auto`, `cpu` or `cuda`.
        probe: measures the network before the first and after every epoch.

    Returns:
        Model folder: config.json, model.safetensors, metrics.json, history.csv, probe.csv. The
        method then holds the trained weights in eval mode, whether it was trained now or before.
    """
    config, chosen = method.config, pick_device(device)
    if isinstance(pixels, EditedViews) != (config.path == "images"):
        raise KitError(
            f"training path '{config.path}' needs other data than {type(pixels).__name__}: give "
            "open_views(images, config) for 'images', Pixels for 'tensor'"
        )
    precision = pick_precision(config.precision, chosen, method.model)
    key = content_key(method.key(), pixels.key(), precision)
    out = Path(folder) / f"{name}-{key}"
    if (out / "model.safetensors").exists():
        log.info("%s is trained already", out.name)
        _restore(method, out)
        return out
    checkpoints = out.with_name(f".{out.name}.checkpoints")
    last = checkpoints / "last.ckpt"
    if last.exists():
        log.info("continuing %s from its last finished epoch", out.name)
    L.seed_everything(config.seed, verbose=False)
    loader = _loader(pixels, config)
    method.to(memory_format=torch.channels_last)
    method.train()  # a network read from a folder comes in eval mode
    trainer = _trainer(config, chosen, precision, last, probe)
    with warnings.catch_warnings():
        for known in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=known)
        trainer.fit(method, loader, ckpt_path=last if last.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not method.history:  # processes that a notebook started have it
        method.on_load_checkpoint(torch.load(last, map_location="cpu", weights_only=True))
    if trainer.is_global_zero:
        _save(method, out)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.strategy.barrier()  # all processes find the folder finished
    method.eval()
    return out


def _save(method: Method, out: Path) -> None:
    history, probes = pd.DataFrame(method.history), pd.DataFrame(method.probes)
    texts = {"history.csv": history.to_csv(index=False)}
    if len(probes):
        texts["probe.csv"] = probes.to_csv(index=False)
    method.model.save(out, history.iloc[-1].to_dict(), texts, _extra(method))


def _loader(pixels: Pixels | EditedViews, config: TrainConfig) -> DataLoader:
    shared = {"batch_size": config.batch_size, "drop_last": True}
    if isinstance(pixels, Pixels):
        sampler = EpochSampler(len(pixels), config.seed)
        return DataLoader(pixels, sampler=sampler, collate_fn=_whole, **shared)
    sampler = EpochSampler(len(pixels), config.seed, mark=True)
    if config.workers:
        shared |= {
            "num_workers": config.workers,
            "persistent_workers": True,
            "multiprocessing_context": "spawn",  # a fork of a process with threads may hang
            "worker_init_fn": one_thread,
        }
    return DataLoader(pixels, sampler=sampler, **shared)


def _extra(method: Method) -> dict[str, torch.Tensor]:
    state = method.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("model.")}


def _restore(method: Method, folder: Path) -> None:
    """Put a finished training's weights into the method, as if it had just been trained."""
    method.model.load_state_dict(load_file(folder / "model.safetensors"))
    if (folder / "training.safetensors").exists():
        method.load_state_dict(load_file(folder / "training.safetensors"), strict=False)
    method.eval()


def read_history(model: str | Path) -> pd.DataFrame:
    """Losses of every training step of a model folder: columns step, loss, ..."""
    return pd.read_csv(Path(model) / "history.csv")


def read_probes(model: str | Path) -> pd.DataFrame:
    """What the probe measured before training and after each epoch: columns step, ..."""
    return pd.read_csv(Path(model) / "probe.csv")


def _whole(batch):
    """`Pixels.__getitems__` gives the whole batch: nothing to collate."""
    return batch


class _Progress(L.Callback):
    """One bar over all steps, on stderr, so that notebooks keep their outputs free of it."""

    def on_train_start(self, trainer: L.Trainer, method: Method) -> None:
        total, done = method.total_steps, trainer.global_step
        self.bar = tqdm(total=total, initial=done, desc="train", disable=not trainer.is_global_zero)

    def on_train_batch_end(self, trainer: L.Trainer, method: Method, *_: Any) -> None:
        self.bar.update(trainer.global_step - self.bar.n)
        self.bar.set_postfix(epoch=trainer.current_epoch, loss=f"{method.history[-1]['loss']:.3f}")

    def on_train_end(self, trainer: L.Trainer, method: Method) -> None:
        self.bar.close()

    def on_exception(self, trainer: L.Trainer, method: Method, error: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


class _KeepLast(Checkpoint):
    """One checkpoint, written whole after every epoch; Lightning calls this callback last."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, method: Method) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)  # on every process; the first one writes
        if trainer.is_global_zero:
            os.replace(part, self.path)
        trainer.strategy.barrier()


class _Probing(L.Callback):
    def __init__(self, probe: Callable[[Descriptor], dict[str, float]]):
        self.probe = probe

    def on_train_start(self, trainer: L.Trainer, method: Method) -> None:
        if trainer.global_step == 0:
            self._measure(trainer, method)

    def on_train_epoch_end(self, trainer: L.Trainer, method: Method) -> None:
        self._measure(trainer, method)

    def _measure(self, trainer: L.Trainer, method: Method) -> None:
        method.model.eval()
        method.probes.append({"step": trainer.global_step, **self.probe(method.model)})
        method.model.train()


def _trainer(
    config: TrainConfig,
    device: torch.device,
    precision: str,
    last: Path,
    probe: Callable[[Descriptor], dict[str, float]] | None,
) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    nodes = _nodes(config.devices)
    return L.Trainer(
        max_epochs=config.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.devices // nodes,
        num_nodes=nodes,
        precision=precision,
        sync_batchnorm=config.devices > 1 and device.type == "cuda",  # torch has it for GPUs only
        use_distributed_sampler=False,  # `EpochSampler` shares the images out itself
        callbacks=[_Progress(), *([_Probing(probe)] if probe else []), _KeepLast(last)],
        enable_progress_bar=False,
        logger=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def _nodes(devices: int) -> int:
    """Number of machines: 1, or as many as torchrun runs on."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1
    started = int(os.environ["WORLD_SIZE"])
    if started != devices:
        raise KitError(
            f"torchrun started {started} processes, but devices is {devices}: set devices={started}"
        )
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))
