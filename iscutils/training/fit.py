"""One `fit` for every method: Lightning trains, the finished model is a folder.

Several processes: `devices=4` starts four of them, from a notebook or a script. Under
`torchrun --nproc-per-node 4 [--nnodes 2]`, of a script or of the kit's own command, `devices` is
the number of all processes, here 4 or 8. Each takes `batch_size` images a step; losses and
gradients are those of one process with the whole batch, batch norms included on GPUs.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file
from timm.layers import convert_sync_batchnorm

from iscutils.files.artifacts import KitError, content_key, log
from iscutils.models import Descriptor
from iscutils.models.precision import pick_device, pick_precision
from iscutils.training.callbacks import KeepLast, Progress
from iscutils.training.data import Examples
from iscutils.training.method import Method, TrainConfig

_KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # batches are read whole, from memory maps
    ".*in eval mode at the start of training.*",  # the teacher, on purpose
    ".*treespec, LeafSpec.*",  # Lightning's own use of torch
)


def fit(
    method: Method,
    data: Examples,
    folder: str | Path,
    name: str,
    device: str = "auto",
    probe: Callable[[Descriptor], dict[str, float]] | None = None,
) -> Path:
    """Train a method and write its model folder; a killed run continues at its last epoch.

    Args:
        method: holds the network as `.model` and the `TrainConfig` as `.config`.
        data: training images: `Pixels`; for path "images" what `open_views` gives, for "labelled"
            what `read_labelled` gives, for "stored" what `store_views` gives.
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
    if data.path != config.path:
        raise KitError(
            f"training path '{config.path}' needs other data than {type(data).__name__}: give "
            "open_views(images, config) for 'images', Pixels for 'tensor', read_labelled(sets, ..) "
            "for 'labelled', store_views(pixels, ..) for 'stored'"
        )
    precision = pick_precision(config.precision, chosen, method.model)
    key = content_key(method.key(), data.key(), precision)
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
    loader = data.loader(config)
    if config.devices > 1 and chosen.type == "cuda":  # torch has synchronised norms for GPUs only
        # timm's, because Lightning's would drop the activations that are part of some timm norms.
        convert_sync_batchnorm(method)
    method.model.backbone.freeze(config.freeze)
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
    method.finish()
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
    method.model.save(out, history.iloc[-1].to_dict(), texts, method.kept())


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


class _Probing(L.Callback):
    def __init__(self, probe: Callable[[Descriptor], dict[str, float]]):
        self.probe = probe

    def on_train_start(self, trainer: L.Trainer, method: Method) -> None:
        before = method.probes[-1]["minutes"] if method.probes else 0.0  # of a killed run
        self.started = time.monotonic() - 60 * before
        if trainer.global_step == 0:
            self._measure(trainer, method)

    def on_train_epoch_end(self, trainer: L.Trainer, method: Method) -> None:
        self._measure(trainer, method)

    def _measure(self, trainer: L.Trainer, method: Method) -> None:
        minutes = round((time.monotonic() - self.started) / 60, 2)
        network = method.finished.eval()
        row = {"step": trainer.global_step, "minutes": minutes, **self.probe(network)}
        method.probes.append(row)
        network.train()


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
        strategy=_Joined() if _under_torchrun() and config.devices > 1 else "auto",
        precision=precision,
        use_distributed_sampler=False,  # the data's sampler shares the images out itself
        callbacks=[Progress(), *([_Probing(probe)] if probe else []), KeepLast(last)],
        enable_progress_bar=False,
        logger=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


class _Joined(DDPStrategy):
    """Of processes that torchrun has started, also in kernels, where Lightning refuses a launcher.

    There is nothing to launch.
    """

    def _configure_launcher(self) -> None:
        self._launcher = None


def _nodes(devices: int) -> int:
    """Number of machines: 1, or as many as torchrun runs on."""
    if not _under_torchrun():
        return 1
    started = int(os.environ["WORLD_SIZE"])
    if started != devices:
        raise KitError(
            f"torchrun started {started} processes, but devices is {devices}: set devices={started}"
        )
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
