"""Momentum2-Teacher: norms, schedules, loss, roles of student and teacher, resume, processes."""

from __future__ import annotations

import math
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from training_cases import coarse_pixels, resumes_as_if_unbroken

from iscutils import training
from iscutils.edits import load_recipe
from iscutils.files.artifacts import KitError
from iscutils.losses import MemoryTriplet, SoftTriplet, memory_hard, unit
from iscutils.models import Descriptor, DescriptorConfig, load
from iscutils.training.momentum_norm import MomentumNorm, half_cosine, momentum_norms

BACKBONE = "mobilenetv3_small_050"
SHAPE = DescriptorConfig(backbone=BACKBONE, dim=0, size=32)


def settings(**changes) -> training.TrainConfig:
    given = dict(epochs=2, batch_size=8, size=32, rate=0.03, optimiser="sgd", precision="32-true")
    return training.TrainConfig(**{**given, "weight_decay": 1e-4, **changes})


def momentum2(config=None, steps=12, seed=0, **options) -> training.Momentum2:
    return training.Momentum2(Descriptor(SHAPE, seed=seed), config or settings(), steps, **options)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """64 coarse random pictures."""
    return coarse_pixels(tmp_path_factory.mktemp("pixels"), 64)


@pytest.fixture(scope="module")
def batch():
    views = torch.rand(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return views, torch.arange(8)


# --- momentum batch norm


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64) + 2


def norm_of(x: torch.Tensor, done: int = 0, total: int = 10) -> MomentumNorm:
    """A norm for x (B, C, ...) with known running statistics, after `done` of `total` steps."""
    kind = nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d
    norm = MomentumNorm(kind(x.shape[1]).double(), total)
    norm.running_mean.fill_(0.5)
    norm.running_var.fill_(2.0)
    norm.num_batches_tracked.fill_(done)
    return norm


def slow_statistics(x: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and unbiased variance of every channel, value by value."""
    means, variances = [], []
    for channel in x.transpose(0, 1).flatten(1).tolist():
        mean = sum(channel) / len(channel)
        means.append(mean)
        variances.append(sum((v - mean) ** 2 for v in channel) / (len(channel) - 1))
    return means, variances


both = pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5, 2)], ids=["1d", "2d"])


@both
def test_at_the_start_the_batch_has_mean_0_and_variance_1(shape):
    out = norm_of(values(*shape))(values(*shape))
    means, variances = slow_statistics(out)
    assert means == pytest.approx([0] * 4, abs=1e-9)
    assert variances == pytest.approx([1] * 4, rel=1e-4)  # eps


@both
def test_running_statistics_move_after_every_second_view(shape):
    first, second = values(*shape), values(*shape, seed=1)
    norm = norm_of(first)
    norm(first)
    assert (norm.running_mean == 0.5).all()
    assert (norm.running_var == 2.0).all()
    assert int(norm.num_batches_tracked) == 0
    norm(second)
    known = [slow_statistics(view) for view in (first, second)]
    means = np.mean([mean for mean, _ in known], axis=0)
    variances = np.mean([variance for _, variance in known], axis=0)
    assert np.allclose(norm.running_mean, means)
    assert np.allclose(norm.running_var, variances)  # unbiased once, not twice
    assert int(norm.num_batches_tracked) == 1


@both
def test_in_the_middle_batch_and_running_statistics_have_equal_weight(shape):
    first, second = values(*shape), values(*shape, seed=1)
    norm = norm_of(first, done=5)
    out = [norm(first), norm(second)]
    spread = (1, 4) + (1,) * (first.ndim - 2)
    for x, y in zip((first, second), out, strict=True):
        mean, variance = (torch.tensor(part, dtype=x.dtype) for part in slow_statistics(x))
        mean, variance = (mean + 0.5) / 2, (variance + 2.0) / 2
        expected = (x - mean.view(spread)) / (variance.view(spread) + 1e-5).sqrt()
        assert torch.allclose(y, expected, atol=1e-6)  # the schedule is in float32


def test_at_the_end_nothing_moves_and_the_norm_is_one_of_eval_mode():
    x = values(6, 4)
    norm = norm_of(x, done=10)
    out = [norm(x), norm(x)]
    assert (norm.running_mean == 0.5).all()
    assert (norm.running_var == 2.0).all()
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    assert torch.allclose(out[0], expected, atol=1e-6)
    assert torch.allclose(norm.eval()(x), expected)


def test_eval_mode_counts_no_view():
    x = values(6, 4)
    norm = norm_of(x)
    norm(x)
    norm.eval()(x)
    assert int(norm.num_batches_tracked) == 0
    norm.train()(x)
    assert int(norm.num_batches_tracked) == 1


def test_no_gradient_goes_through_the_statistics():
    x = values(6, 4).requires_grad_()
    norm = norm_of(x)
    norm(x).sum().backward()
    variances = torch.tensor(slow_statistics(x.detach())[1], dtype=x.dtype)
    # Through the statistics it would be 0: a sum of normalised values never changes.
    assert torch.allclose(x.grad, ((variances + 1e-5) ** -0.5).expand(6, 4))
    assert not norm.running_mean.requires_grad


def test_schedules():
    assert [half_cosine(i / 10) for i in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    shares = [float(norm_of(values(6, 4), done=i).share()) for i in (0, 5, 10, 12)]
    assert shares == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    method = momentum2()
    kept = []
    for share in (0.0, 0.5, 1.0):
        method.progress = lambda share=share: share
        kept.append(method.momentum_now())
    assert kept == pytest.approx([0.99, 0.995, 1.0])


def test_a_converted_network_is_the_same_in_eval_mode_and_has_the_same_state():
    model, plain = Descriptor(SHAPE, seed=1).eval(), Descriptor(SHAPE, seed=1).eval()
    momentum_norms(model, 10)
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(model(images), plain(images), atol=1e-6)  # activations included
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in plain.named_parameters()]
    plain.load_state_dict(model.state_dict())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert any(isinstance(m, MomentumNorm) for m in model.modules())


# --- the method


def test_loss_equals_its_formula_image_by_image(batch):
    views, ids = batch
    method = momentum2(settings(path="images"), seed=2).eval()
    with torch.no_grad():
        parts = method.loss(views, ids)
    terms = []
    for i in range(8):
        x = [views[i : i + 1, k] for k in range(2)]
        students = [method.student_projector(method.student.pooled(v)) for v in x]
        asked = [unit(method.predictor(student)).detach() for student in students]
        keys = [unit(method.teacher_projector(method.model.pooled(v))) for v in x]
        terms.append(4 - 2 * float((asked[0] * keys[1]).sum() + (asked[1] * keys[0]).sum()))
    assert parts["loss"].item() == pytest.approx(np.mean(terms), rel=1e-4)
    assert parts["agreement"].item() == pytest.approx(1 - np.mean(terms) / 4, rel=1e-4)


def test_the_teacher_is_a_copy_without_predictor_that_follows_slowly(batch):
    views, ids = batch
    method = momentum2(settings(path="images"), momentum=0.75)
    pairs = [
        *zip(method.model.parameters(), method.student.parameters(), strict=True),
        *zip(
            method.teacher_projector.parameters(),
            method.student_projector.parameters(),
            strict=True,
        ),
    ]
    assert all(torch.equal(*pair) for pair in pairs)
    assert not any("predictor" in name for name, _ in method.teacher_projector.named_modules())
    before = [slow.clone() for slow, _ in pairs]
    with torch.no_grad():
        for _, fast in pairs:
            fast.add_(0.1)
    method.follow()
    for (slow, fast), old in zip(pairs, before, strict=True):
        assert torch.allclose(slow, 0.75 * old + 0.25 * fast, atol=1e-6)
    method.eval().loss(views, ids)  # measuring moves nothing
    assert all(
        torch.allclose(slow, 0.75 * old + 0.25 * fast, atol=1e-6)
        for (slow, fast), old in zip(pairs, before, strict=True)
    )


def test_only_the_student_is_trained(batch):
    views, ids = batch
    method = momentum2(settings(path="images"))
    method.loss(views, ids)["loss"].backward()
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {
        "student",
        "student_projector",
        "predictor",
    }
    (optimiser,), _ = method.configure_optimizers()
    count = sum(len(group["params"]) for group in optimiser.param_groups)
    assert count == len(trained)


def test_widths_follow_the_trunk():
    method = momentum2()
    channels = method.model.backbone.channels
    assert method.predictor[0].in_features == channels // 8
    assert method.student_projector[0].out_features == 2 * channels
    method = momentum2(width=24, hidden=40)
    shapes = [(m.in_features, m.out_features) for m in method.predictor if hasattr(m, "weight")
              and m.weight.ndim == 2]  # fmt: skip
    assert shapes == [(24, 40), (40, 24)]
    with pytest.raises(KitError, match="momentum 2"):
        momentum2(momentum=2)


def test_both_methods_of_pretraining_are_offered():
    assert training.choose("momentum2", "pretrain") is training.Momentum2
    with pytest.raises(KitError, match="barlow_twins or momentum2"):
        training.choose("byol", "pretrain")


def test_the_recipe_gives_two_different_views():
    recipe, rng = load_recipe("momentum2"), np.random.default_rng(0)
    first = [dict(recipe.original.sample(rng)) for _ in range(1500)]
    second = [dict(recipe.sample(rng)) for _ in range(1500)]
    share = [
        {name: np.mean([name in drawn for drawn in view]) for name in recipe.operations}
        for view in (first, second)
    ]
    assert share[0] == pytest.approx(
        {"resized_crop": 1, "jitter": 0.8, "gray": 0.2, "blur": 1, "solarise": 0, "hflip": 0.5},
        abs=0.05,
    )
    assert share[1] == pytest.approx({**share[0], "blur": 0.1, "solarise": 0.2}, abs=0.05)
    assert {drawn["solarise"]["threshold"] for drawn in second if "solarise" in drawn} == {128}
    sigmas = [224 * drawn["blur"]["radius"] for drawn in first]
    assert 0.1 <= min(sigmas) < 0.2
    assert 1.9 < max(sigmas) <= 2.0


# --- fit


def test_training_raises_the_agreement_and_exports_the_teacher(pixels, tmp_path):
    config = settings(epochs=3, recipe="momentum2", mild_first=True, strength=0.2, ramp=0.0)
    steps = training.steps_of(pixels, config)
    method = momentum2(config, steps, momentum=0.9)
    start = method.model.backbone.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    folder = training.fit(method, pixels, tmp_path, "p", "cpu")
    history = training.read_history(folder)
    # The first two steps are those of the untrained network: the rate starts at 0.
    assert history.agreement.tail(4).mean() > history.agreement.head(2).mean() + 0.1
    assert history.loss.to_numpy() == pytest.approx(4 - 4 * history.agreement.to_numpy(), abs=1e-5)
    assert history.directions.dropna().iloc[-1] > 1
    exported = load(folder)
    state = exported.backbone.state_dict()
    for name, value in method.model.backbone.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert any(not torch.equal(value, start[name]) for name, value in state.items())
    student = method.student.backbone.state_dict()
    assert any(not torch.equal(value, state[name]) for name, value in student.items())
    counted = [v for n, v in state.items() if n.endswith("num_batches_tracked")]
    assert {int(count) for count in counted} == {steps}
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(exported.eval()(images), method.model(images), atol=1e-5)
    Descriptor(DescriptorConfig(backbone=BACKBONE, dim=8, size=32)).start_from(folder)


def test_a_killed_training_ends_as_an_unbroken_one(pixels, tmp_path):
    config = settings()
    steps = training.steps_of(pixels, config)
    resumes_as_if_unbroken(lambda: momentum2(config, steps), pixels, tmp_path)


# --- several processes

COUNT, STEPS = 4, 3  # images a process and step


def _train(name: str) -> dict[str, torch.Tensor]:
    """Three plain gradient steps of a method; gradients and the final state."""
    config = settings(batch_size=COUNT, path="images")
    if name == "momentum2":
        method = momentum2(config, STEPS, momentum=0.5)
    else:
        shape = DescriptorConfig(backbone=BACKBONE, dim=6, size=32)
        method = training.ImgFp(Descriptor(shape), config, STEPS, queue=16)
    method.double()
    for module in method.modules():  # batch norm off: without a GPU it is not synchronised
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    generator = torch.Generator().manual_seed(2)
    shape = (STEPS, 2 * COUNT, 2, 3, 32, 32)
    views = torch.rand(shape, generator=generator, dtype=torch.float64)
    ids = torch.arange(STEPS * 2 * COUNT).reshape(STEPS, -1) % 11
    own, count, kept = _own(2 * COUNT), 2 if dist.is_initialized() else 1, {}
    for step in range(STEPS):
        method.zero_grad()
        method.loss(views[step, own], ids[step, own])["loss"].backward()
        for label, parameter in method.named_parameters():
            if parameter.grad is not None:
                kept[f"gradient {step} {label}"] = gradient = _mean(parameter.grad, count)
                parameter.data.sub_(gradient, alpha=0.01)
    return kept | {label: value.clone() for label, value in method.state_dict().items()}


def _own(total: int) -> slice:
    if not dist.is_initialized():
        return slice(0, total)
    return slice(dist.get_rank() * total // 2, (dist.get_rank() + 1) * total // 2)


def _mean(gradient: torch.Tensor, count: int) -> torch.Tensor:
    if count > 1:
        dist.all_reduce(gradient)
    return gradient / count


def _triplets() -> dict[str, torch.Tensor]:
    weight = values(5, 3).requires_grad_()
    ids = torch.tensor([0, 1, 0, 3, 1, 2, 3, 2])
    own = _own(8)
    rows = (values(8, 5, seed=1) @ weight)[own]
    others = (values(8, 5, seed=2) @ weight)[own]
    loss = SoftTriplet()(rows, ids[own])
    loss = loss + MemoryTriplet()(*memory_hard(unit(rows), unit(others), ids[own]))
    loss.backward()
    return {"gradient": _mean(weight.grad, 2 if dist.is_initialized() else 1)}


def _everything() -> dict[str, dict[str, torch.Tensor]]:
    return {"triplets": _triplets()} | {name: _train(name) for name in ("momentum2", "imgfp")}


def _process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save(_everything(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of process 0, of process 1, and of one process that has all images."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port, str(folder)), nprocs=2)
    two = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return (*two, _everything())


@pytest.mark.parametrize("name", ["triplets", "momentum2", "imgfp"])
def test_two_processes_are_as_one(name, results):
    first, second, one = (result[name] for result in results)
    assert first.keys() == second.keys() == one.keys()
    for label, value in one.items():
        assert torch.equal(first[label], second[label]), label
        assert torch.allclose(first[label], value, atol=1e-9, rtol=0), label
    assert any(label.startswith("gradient") for label in one)
    assert all(math.isfinite(float(value.abs().max())) for value in one.values())
