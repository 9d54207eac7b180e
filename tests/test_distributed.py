"""Several processes: gradients, queues and whole trainings equal those of one process."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

from iscutils import training
from iscutils.files.artifacts import KitError
from iscutils.losses import (
    BarlowTwins,
    InfoNCE,
    KoLeo,
    gather,
    global_pairs,
    mean_over,
)
from iscutils.models import Descriptor, DescriptorConfig
from iscutils.training.pixels import EpochSampler

BACKBONE = "mobilenetv3_small_050"
BATCH, STEPS, SIDE = 4, 5, 32  # images a process and step


class Teacher(nn.Module):
    """Stand-in: a random linear map of a coarse view."""

    dim, size = 6, SIDE

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("weight", torch.randn(48, self.dim, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        coarse = F.adaptive_avg_pool2d(images - 0.5, 4).flatten(1)
        return F.normalize(coarse @ self.weight.to(coarse.dtype), dim=1)


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Five steps of eight images: two views each, and ids of which some return."""
    generator = torch.Generator().manual_seed(2)
    shape = (STEPS, 2 * BATCH, 2, 3, SIDE, SIDE)
    views = torch.rand(shape, generator=generator, dtype=torch.float64)
    return views, torch.arange(STEPS * 2 * BATCH).reshape(STEPS, -1) % 19


def _method(name: str) -> training.Method:
    config = training.TrainConfig(epochs=1, batch_size=BATCH, size=SIDE, path="images")
    student = DescriptorConfig(backbone=BACKBONE, dim=4, size=SIDE, hidden=Teacher.dim)
    if name == "sscd":
        method = training.SSCD(Descriptor(student), config, STEPS, 0.1, 3.0, 0.0)
    elif name == "rdcd":  # 24 = three steps of one view: the fourth one starts again
        method = training.RDCD(Descriptor(student), config, STEPS, Teacher(), queue=24)
    else:
        narrow = DescriptorConfig(backbone=BACKBONE, dim=4, size=SIDE)
        method = training.KdIcd(
            Descriptor(narrow), config, STEPS, Teacher(), queue=32, entropy_from=0.0, direct=True
        )
    method.double()
    for module in method.modules():  # batch norm off: without a GPU it is not synchronised
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return method


def _train(name: str) -> dict[str, torch.Tensor]:
    """Five plain gradient steps; the first gradient and the final state."""
    method, (views, ids) = _method(name), _inputs()
    number, count = (dist.get_rank(), 2) if dist.is_initialized() else (0, 1)
    own = slice(number * 2 * BATCH // count, (number + 1) * 2 * BATCH // count)
    kept = {}
    for step in range(STEPS):
        method.zero_grad()
        method.loss(views[step, own], ids[step, own])["loss"].backward()
        for label, parameter in method.named_parameters():
            if parameter.requires_grad:
                if count > 1:
                    dist.all_reduce(parameter.grad)
                gradient = parameter.grad / count
                kept[f"gradient {step} {label}"] = gradient.clone()
                parameter.data.sub_(gradient, alpha=0.01)
    return kept | {label: value.clone() for label, value in method.state_dict().items()}


def _losses() -> dict[str, torch.Tensor]:
    """Gradient of the plain losses; the mean over rows that only one process has many of."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    inputs = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    sources = torch.tensor([0, 1, 0, 1, 2, 3, 2, 3])[:, None]
    usable = torch.tensor([1, 1, 1, 0, 0, 1, 0, 0]) > 0
    count = 2 if dist.is_initialized() else 1
    first, second = [0, 1, 4, 5], [2, 3, 6, 7]
    if count == 2:
        own = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        inputs, sources, usable = inputs[own], sources[own], usable[own]
        first, second = [0, 1], [2, 3]
    rows = F.normalize(inputs @ weight, dim=1)
    similarity, positives, negatives = global_pairs(rows, sources)
    loss = InfoNCE(0.1)(similarity, positives, negatives) + KoLeo()(similarity, negatives)
    loss = loss + BarlowTwins()(rows[first], rows[second]) + mean_over(rows[:, 0], usable)
    loss.backward()
    if count > 1:
        dist.all_reduce(weight.grad)
    return {"gradient": weight.grad / count, "seen": gather(rows).detach()}


def _everything() -> dict[str, dict[str, torch.Tensor]]:
    return {"losses": _losses()} | {name: _train(name) for name in ("sscd", "rdcd", "kd_icd")}


def _pixels(folder: str) -> training.Pixels:
    return training.Pixels(f"{folder}/pixels")


def _fit(folder: str, out: str, devices: int, batch_size: int) -> training.RDCD:
    config = training.TrainConfig(
        epochs=2, batch_size=batch_size, size=SIDE, devices=devices, precision="32-true"
    )
    student = DescriptorConfig(backbone=BACKBONE, dim=4, size=SIDE, hidden=Teacher.dim)
    pixels = _pixels(folder)
    steps = training.steps_of(pixels, config)
    method = training.RDCD(Descriptor(student), config, steps, Teacher(), queue=16)
    training.fit(method, pixels, f"{folder}/{out}", "m", "cpu")
    return method


def _process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update(address | {name: str(value) for name, value in places.items()})
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(_everything(), f"{folder}/{rank}.pt")
    with pytest.raises(RuntimeError, match="different numbers of rows"):
        gather(torch.zeros(2 + rank, 3))
    with pytest.raises(KitError, match="set devices=2"):
        _fit(folder, "wrong", 4, 2)
    method = _fit(folder, "two", 2, BATCH)
    state = {"history": torch.tensor([row["loss"] for row in method.history])}
    torch.save(state | method.state_dict(), f"{folder}/fit{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes wrote: gradients and states of both, and a trained model."""
    folder = tmp_path_factory.mktemp("two")
    coarse = np.random.default_rng(0).integers(0, 256, (42, 5, 5, 3), dtype=np.uint8)
    (folder / "pixels").mkdir()
    np.save(folder / "pixels" / "0.npy", coarse.repeat(9, 1).repeat(9, 2))
    (folder / "pixels" / "ids.txt").write_text("\n".join(f"p{i:02d}" for i in range(42)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port, str(folder)), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Of process 0, of process 1, and of one process that has all images."""
    two = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return (*two, _everything())


@pytest.mark.parametrize("name", ["losses", "sscd", "rdcd", "kd_icd"])
def test_two_processes_are_as_one(name, results):
    first, second, one = (result[name] for result in results)
    assert first.keys() == second.keys() == one.keys()
    for label, value in one.items():
        assert torch.equal(first[label], second[label]), label
        if not label.startswith("bank."):  # its rows come in another order, see below
            assert torch.allclose(first[label], value, atol=1e-10, rtol=0), label
    assert any(label.startswith("gradient") for label in one)


def test_the_bank_of_two_processes_has_the_rows_in_gathered_order(results):
    two, one = results[0]["kd_icd"], results[2]["kd_icd"]
    # One process writes first views, then second views; two write so process by process.
    order = torch.arange(4 * BATCH).reshape(2, 2, BATCH).transpose(0, 1).flatten()
    steps = torch.arange(2)[:, None] * 4 * BATCH
    order = (steps + order).flatten()
    assert torch.equal(two["bank.ids"], one["bank.ids"][order])
    assert torch.allclose(two["bank.vectors"], one["bank.vectors"][order], atol=1e-10)
    assert int(two["bank.pointer"]) == 5 * 4 * BATCH % 32
    assert int(two["bank.filled"]) == 32


def test_fit_under_torchrun_writes_one_model_and_equal_queues(folder):
    first, second = (torch.load(folder / f"fit{rank}.pt", weights_only=True) for rank in range(2))
    (model,) = (folder / "two").glob("m-*")
    assert not list((folder / "two").glob(".*"))
    history = training.read_history(model)
    assert len(history) == 2 * (42 // 8)
    assert not torch.equal(first["history"], second["history"])  # each has images of its own
    for label in first:
        if "queue" in label or label.startswith("model.head"):
            assert torch.equal(first[label], second[label]), label
    ids = first["student_queue.ids"]
    assert len(set(ids.tolist())) == 16  # no image twice in two steps of an epoch
    assert (model / "training.safetensors").exists()


def test_processes_share_the_images_of_a_step(monkeypatch):
    whole = EpochSampler(21, seed=3)
    whole.set_epoch(2)
    shares = []
    for number in range(2):
        monkeypatch.setattr(training.pixels, "world_size", lambda: 2)
        monkeypatch.setattr(training.pixels, "rank", lambda number=number: number)
        sampler = EpochSampler(21, seed=3)
        sampler.set_epoch(2)
        shares.append(list(sampler))
        assert len(sampler) == 10
    monkeypatch.undo()
    order = list(whole)
    for step in range(2):
        mine = [set(share[4 * step : 4 * step + 4]) for share in shares]
        assert mine[0] | mine[1] == set(order[8 * step : 8 * step + 8])


def test_queues_are_not_sent_between_processes():
    method = _method("rdcd")
    method.setup("fit")
    ignored = method._ddp_params_and_buffers_to_ignore
    assert {"student_queue.vectors", "teacher_queue.vectors"} < set(ignored)
    assert not any(name.startswith("model") for name in ignored)
