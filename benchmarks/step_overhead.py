"""What a training step costs beyond the network: losses, queues, edits, loader.

    python benchmarks/step_overhead.py [--network resnet50] [--size 224] [--batch 32]

The bare forward and backward pass of the same network, on the same views, device and precision, is
1. Teacher and momentum student are networks of their own: their bare forward passes belong to the
bare time of the methods that have them.
"""

import argparse
import statistics
import time

import torch

from iscutils.edits.tensor import TensorEdits
from iscutils.models import Descriptor, DescriptorConfig, student_config
from iscutils.models.precision import pick_precision
from iscutils.training import RDCD, SSCD, KdIcd, TrainConfig, make_optimiser, pick_device


def timed(calls: dict, rounds: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, so that noise hits all alike."""
    seconds = {name: [] for name in calls}
    for number in range(rounds + 1):  # the first round warms up
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet10t")
    parser.add_argument("--teacher", default="resnet10t")
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queue", type=int, default=4096)
    options = parser.parse_args()
    torch.manual_seed(0)
    device, size, batch = pick_device(), options.size, options.batch
    teacher = Descriptor(DescriptorConfig(backbone=options.teacher, dim=128, size=size))
    teacher = teacher.eval().requires_grad_(False).to(device)
    photos = torch.rand(batch, 3, round(1.4 * size), round(1.4 * size), device=device)
    views = torch.rand(batch, 2, 3, size, size, device=device)
    ids = torch.arange(batch, device=device)
    config = TrainConfig(batch_size=batch, size=size)
    whole = {"sscd": SSCD, "kd_icd": KdIcd, "rdcd": RDCD}
    generator, edits = torch.Generator(device), TensorEdits(config.recipe, size)
    print(f"{options.network}, {size} px, {2 * batch} views a step, {device.type}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    for name, method_class in whole.items():
        network = Descriptor(student_config(options.network, 64, hidden=128, size=size), seed=0)
        settings = {} if name == "sscd" else {"teacher": teacher, "queue": options.queue}
        method = method_class(network, config, 10_000, **settings)
        method = method.to(device, memory_format=torch.channels_last)
        optimiser = make_optimiser("adamw", network.parameters(), 1e-4, 0.01, False)
        precision = pick_precision("auto", device, network)
        context = torch.autocast(device.type, torch.bfloat16, enabled="bf16" in precision)
        flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)

        def bare(name=name, network=network, context=context, flat=flat):
            with context:
                own, other = (flat[:batch], flat[batch:]) if name == "rdcd" else (flat, flat[:0])
                if name != "sscd":
                    teacher(own)
                if len(other):
                    with torch.no_grad():
                        network.expand(network.pooled(other))
                loss = network.expand(network.pooled(own))[1].float().square().mean()
            loss.backward()

        def full(given, method=method, context=context, optimiser=optimiser):
            with context:
                loss = method.loss(given, ids)["loss"]
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

        calls = {"bare": bare, "losses": lambda f=full: f(views), "edits": lambda f=full: f(photos)}
        seconds = timed(calls, options.rounds)
        bare_time = seconds["bare"]
        print(
            f"{name:7} {precision:10} bare {2 * batch / bare_time:6.0f} views/s; with losses, "
            f"queues and optimiser {seconds['losses'] / bare_time:.2f} x the time, with edits "
            f"of whole batches as well {seconds['edits'] / bare_time:.2f} x"
        )
    alone = timed({"edits": lambda: edits(photos, generator)}, options.rounds)["edits"]
    print(f"edits of one view of each image alone: {batch / alone:.0f} views/s")


if __name__ == "__main__":
    main()
