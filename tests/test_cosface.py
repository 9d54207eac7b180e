"""Classifiers over many classes: formulas, slices on two processes, sampled classes."""

from __future__ import annotations

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.losses import Classifier, CosFace

CLASSES, WIDTH, ROWS = 11, 6, 8  # classes that two processes cannot share evenly


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    return features, torch.randint(CLASSES, (ROWS,), generator=generator)


def _classifiers() -> dict[str, Classifier]:
    return {
        "cosface": CosFace(WIDTH, CLASSES, scale=8.0).double(),
        "smooth": Classifier(WIDTH, CLASSES, smoothing=0.1, seed=2).double(),
    }


def _results() -> dict[str, torch.Tensor]:
    """Losses and gradients, as training with averaged gradients sees them."""
    count, number = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    own, found = slice(ROWS * number // count, ROWS * (number + 1) // count), {}
    for name, classifier in _classifiers().items():
        features, labels = _inputs()
        start = classifier.weight.detach().clone()
        classifier.split()
        projection = torch.eye(WIDTH, dtype=torch.float64).requires_grad_()
        loss = classifier(features[own] @ projection, labels[own])
        (3 * loss).backward()
        if count > 1:
            dist.all_reduce(projection.grad)
        found[f"{name} loss"] = loss.detach()
        found[f"{name} projection"] = projection.grad / count
        found[f"{name} weight"] = classifier.whole(classifier.weight.grad)
        found[f"{name} start"] = classifier.whole(classifier.weight).detach()
        state = {"weight": start}
        classifier.load_state_dict(state)
        found[f"{name} loaded"] = classifier.whole(classifier.weight).detach()
        classifier.load_state_dict({"weight": start[:3]})  # somebody else's slice: not taken
    return found


def _process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(_results(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_half_of_the_classes_are_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    one = _results()
    assert first.keys() == one.keys()
    for label, value in one.items():
        assert torch.allclose(first[label], value, atol=1e-10), label
        if "weight" in label or "start" in label or "loaded" in label:
            assert len(second[label]) == 6  # of process 1: classes 5 to 10
            assert torch.allclose(second[label], value[5:], atol=1e-10)
        else:
            assert torch.equal(first[label], second[label]), label


def test_the_loss_is_the_library_s():
    features, labels = _inputs()
    cosface, smooth = _classifiers().values()
    logits = F.normalize(features, dim=1) @ F.normalize(cosface.weight, dim=1).T
    logits = 8 * (logits - 0.35 * F.one_hot(labels, CLASSES))
    assert torch.allclose(cosface(features, labels), F.cross_entropy(logits, labels))
    plain = F.cross_entropy(features @ smooth.weight.T, labels, label_smoothing=0.1)
    assert torch.allclose(smooth(features, labels), plain)


def test_gradients_are_those_of_finite_differences():
    features, labels = _inputs()
    for classifier in _classifiers().values():

        def call(rows, weight, classifier=classifier):
            return torch.func.functional_call(classifier, {"weight": weight}, (rows, labels))

        inputs = features.requires_grad_(), classifier.weight.detach().requires_grad_()
        assert torch.autograd.gradcheck(call, inputs)


def test_the_margin_lowers_the_right_logit_alone_by_22_4():
    features, labels = _inputs()
    plain = CosFace(WIDTH, CLASSES, margin=0.0).double()
    cosines = F.normalize(features, dim=1) @ F.normalize(plain.weight, dim=1).T
    assert torch.allclose(plain.logits(features, plain.weight), 64 * cosines)
    assert plain.penalty == 0
    assert CosFace(WIDTH, CLASSES).penalty == pytest.approx(22.4)
    lowered = 64 * cosines
    lowered[torch.arange(ROWS), labels] -= 22.4
    expected = F.cross_entropy(lowered, labels)
    assert torch.allclose(CosFace(WIDTH, CLASSES).double()(features, labels), expected)


def test_lengths_of_features_do_not_count():
    features, labels = _inputs()
    classifier = CosFace(WIDTH, CLASSES).double()
    assert torch.allclose(classifier(features, labels), classifier(5 * features, labels))


def test_sampled_classes_hold_those_of_the_batch():
    features, labels = _inputs()
    whole = CosFace(WIDTH, CLASSES, scale=8.0).double()
    some = CosFace(WIDTH, CLASSES, scale=8.0, share=0.9).double()
    draws = [some(features, labels, torch.Generator().manual_seed(seed)) for seed in range(30)]
    exact = whole(features, labels)
    assert all(loss <= exact for loss in draws)  # fewer wrong classes in the sum
    assert len({float(loss.detach()) for loss in draws}) > 1
    draws[0].backward()
    assert (some.weight.grad.abs().sum(1) > 0).sum() == 10  # 90 % of 11, rounded up
    few = CosFace(WIDTH, CLASSES, scale=8.0, share=1e-6).double()
    present = labels.unique()
    logits = few.logits(features, few.weight[present])
    target = torch.searchsorted(present, labels)
    logits[torch.arange(ROWS), target] -= few.penalty
    assert torch.allclose(few(features, labels), F.cross_entropy(logits, target))
    assert torch.allclose(some.eval()(features, labels), exact)


def test_half_precision_features_give_a_full_precision_loss():
    features, labels = _inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert CosFace(WIDTH, CLASSES)(features.bfloat16(), labels).dtype == torch.float32


def test_senseless_settings_are_refused():
    with pytest.raises(KitError, match="at least 2"):
        Classifier(WIDTH, 1)
    with pytest.raises(KitError, match="share"):
        CosFace(WIDTH, 5, share=0.0)
