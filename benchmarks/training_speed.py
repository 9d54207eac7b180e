"""Training speed: views a second of the edits alone and of whole SSCD steps, by network.

    python benchmarks/training_speed.py [--batch 64] [--size 80]

The ratio says how much of a step the edits cost; a loader of single images would have to keep up.
"""

import argparse
import time

import torch

from iscutils.edits.tensor import TensorEdits, ViewConfig
from iscutils.models import Descriptor, DescriptorConfig
from iscutils.training import SSCD, TrainConfig, pick_device, pick_precision


def seconds(run, repeats: int) -> float:
    """Mean time of a call after one to warm up."""
    run()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=["resnet10t", "mobilenetv3_small_100"])
    options = parser.parse_args()
    device = pick_device()
    side = round(1.4 * options.size)
    images = torch.rand(options.batch, 3, side, side, device=device)
    ids, generator = torch.arange(options.batch, device=device), torch.Generator(device)
    edits = TensorEdits(ViewConfig(), options.size)
    alone = options.batch / seconds(lambda: edits(images, generator), options.repeats)
    print(f"{torch.get_num_threads()} threads, {device.type}; edits alone {alone:.0f} views/s")
    for name in options.networks:
        model = Descriptor(DescriptorConfig(backbone=name, size=options.size)).to(device)
        method = SSCD(model, TrainConfig(size=options.size), 100).to(
            device, memory_format=torch.channels_last
        )
        for precision in ("32-true", "bf16-mixed"):
            chosen = pick_precision("auto", device, model)

            def step(method=method, precision=precision):
                with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in precision):
                    loss = method.loss(images, ids)["loss"]
                loss.backward()

            rate = 2 * options.batch / seconds(step, options.repeats)
            mark = "  <- chosen by 'auto'" if precision == chosen else ""
            print(f"{name:24} {precision:10} {rate:6.0f} views/s, {rate / alone:.2f} x edits{mark}")


if __name__ == "__main__":
    main()
