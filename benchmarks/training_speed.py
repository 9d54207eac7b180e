"""Training speed: views a second of both ways to edit, and of whole SSCD steps, by network.

    python benchmarks/training_speed.py [--batch 64] [--size 80] [--threads 1]

Edits of whole batches are compared with edits of one image at a time, of the same recipe: of
pictures as small as cached pixels are, and of photographs as `EditedViews` opens them.
Each network's line says how many loader processes of `EditedViews` (500 px JPEG files, decoding
included) stay 1.3 times ahead of it, and how far ahead the edits of whole batches are.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from iscutils.datasets import open_images
from iscutils.edits import edit, load_recipe
from iscutils.edits.tensor import TensorEdits
from iscutils.edits.views import EditedViews
from iscutils.models import Descriptor, DescriptorConfig
from iscutils.training import SSCD, TrainConfig, pick_device, pick_precision


def seconds(run, repeats: int) -> float:
    """Mean time of a call after one to warm up."""
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def pictures(count: int, side: int) -> np.ndarray:
    """Smooth pictures with some grain, (count, side, side, 3) uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 9, 9, 3), np.uint8)
    smooth = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse]
    grain = rng.normal(0, 8, (count, side, side, 3))
    return np.clip(np.stack(smooth) + grain, 0, 255).astype(np.uint8)


def single_views(recipe_name: str, side: int, size: int, count: int) -> float:
    """Views a second of edits of one picture of `side` px at a time, squashed to `size` px."""
    recipe, rng = load_recipe(recipe_name), np.random.default_rng(0)
    photos = [Image.fromarray(pixels) for pixels in pictures(8, side)]

    def run() -> None:
        for i in range(count):
            donors = [photos[(i + 1) % 8], photos[(i + 2) % 8]]
            edited = edit(photos[i % 8], recipe, rng, donors).image
            edited.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)

    return count / seconds(run, 2)


def loader_rate(recipe: str, size: int) -> float:
    """Views a second of one process that opens files and edits them, all in this process."""
    with tempfile.TemporaryDirectory() as folder:
        for i, pixels in enumerate(pictures(40, 500)):
            Image.fromarray(pixels[:375]).save(Path(folder) / f"{i:02}.jpg", quality=90)
        views = EditedViews(open_images(folder), recipe, size)

        def run() -> None:
            for i in range(len(views)):
                views[i]

        return 2 * len(views) / seconds(run, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--recipe", default="training")
    parser.add_argument(
        "--networks", nargs="*", default=["resnet50", "resnet10t", "mobilenetv3_small_100"]
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    device = pick_device()
    side = round(1.4 * options.size)
    images = torch.from_numpy(pictures(options.batch, side)).permute(0, 3, 1, 2).float() / 255
    images = images.contiguous().to(device)
    ids, generator = torch.arange(options.batch, device=device), torch.Generator(device)
    edits = TensorEdits(options.recipe, options.size)
    alone = options.batch / seconds(lambda: edits(images, generator), options.repeats)
    print(f"{torch.get_num_threads()} threads, {device.type}; whole batches {alone:.0f} views/s")
    for name, length in (("cached pixels", side), ("photographs", 4 * options.size)):
        one = single_views(options.recipe, length, options.size, 100)
        print(f"one at a time, {name} of {length} px: {one:.0f} views/s; ratio {alone / one:.1f}")
    loaded = loader_rate(options.recipe, options.size)
    print(f"loader process with files of 500 px: {loaded:.0f} views/s")
    for name in options.networks:
        model = Descriptor(DescriptorConfig(backbone=name, size=options.size)).to(device)
        config = TrainConfig(size=options.size, recipe=options.recipe)
        method = SSCD(model, config, 100).to(device, memory_format=torch.channels_last)
        for precision in ("32-true", "bf16-mixed"):
            chosen = pick_precision("auto", device, model)

            def step(method=method, precision=precision):
                with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in precision):
                    loss = method.loss(images, ids)["loss"]
                loss.backward()

            rate = 2 * options.batch / seconds(step, options.repeats)
            mark = "  <- chosen by 'auto'" if precision == chosen else ""
            ahead, processes = alone / rate, math.ceil(1.3 * rate / loaded)
            print(
                f"{name:24} {precision:10} {rate:6.0f} views/s; batches {ahead:.1f} x as fast, "
                f"or {processes} loader process(es){mark}"
            )


if __name__ == "__main__":
    main()
