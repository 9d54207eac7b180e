"""Speed of extraction with parts: against bare forward passes, and against parts saved as files.

    python benchmarks/extraction_speed.py [FOLDER] [--images 8] [--backbone torchvision:resnet50]
        [--size 256] [--batch 32] [--workers 0] [--steps forward files regions]

FOLDER holds photographs; without one, the builtin images are used. Ratios are of one run, the best
of three rounds taken in turns, so that other work on the machine touches both alike.
forward: seconds of an extraction of the nineteen parts of references (decoding, cutting, resizing,
network, file) and of the same network on as many ready tensors.
files: processor time of the pixels of three networks at three sizes, here (decoded and cut once, in
memory) and as the original does it (every part saved as a JPEG of quality 100, read again for every
network and size); and the seconds of both with a small network on them.
regions: milliseconds of selective search on a long side of 640 px.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from iscutils.datasets import open_images
from iscutils.descriptors.extract import extract_parts
from iscutils.descriptors.parts import Plan, Stream, cut, load_parts, reference_parts
from iscutils.descriptors.regions import find_regions
from iscutils.files.executor import open_executor
from iscutils.files.images import ImageSet
from iscutils.files.prepare import prepare
from iscutils.models import Descriptor, DescriptorConfig
from iscutils.models.precision import pick_device

ROUNDS = 3
PARTS = 19  # of a reference
STEPS = ["forward", "files", "regions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="builtin")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--backbone", default="torchvision:resnet50")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    options = parser.parse_args()
    images = open_images(options.folder, limit=options.images)
    with tempfile.TemporaryDirectory() as scratch:
        if "forward" in options.steps:
            compare_with_forward(images, options, Path(scratch))
        if "files" in options.steps:
            compare_with_files(images, options, Path(scratch))
    if "regions" in options.steps:
        time_regions(images)


def compare_with_forward(images: ImageSet, options: argparse.Namespace, scratch: Path) -> None:
    """Print seconds of an extraction and of the same forward passes on ready tensors."""
    config = DescriptorConfig(backbone=options.backbone, dim=0, size=options.size)
    network, device = Descriptor(config).eval(), pick_device("auto")
    model = network.save(scratch / "model")
    network.to(device, memory_format=torch.channels_last)
    shape = (options.batch, 3, options.size, options.size)
    batch = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last)

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, PARTS * len(images), options.batch):
                rows = batch[: PARTS * len(images) - start]
                network.raw(rows).cpu()

    with open_executor("processes", options.workers) as pool:

        def ours() -> None:
            out = scratch / "ours"
            extract_parts(images, [model], [options.size], out, pool, parts="reference",
                          batch_size=options.batch)  # fmt: skip
            shutil.rmtree(out)

        best = best_of({"extraction": ours, "bare forward": bare}, time.perf_counter)
    passes = PARTS * len(images)
    print(
        f"forward   {options.backbone} at {options.size} px on {device}, {passes} parts: "
        f"extraction {best['extraction']:.2f} s, bare {best['bare forward']:.2f} s, "
        f"ratio {best['extraction'] / best['bare forward']:.2f}"
    )


def compare_with_files(images: ImageSet, options: argparse.Namespace, scratch: Path) -> None:
    """Print what preparing pixels costs here and by way of files, for three networks and sizes."""
    sizes, networks = [200, 256, 320], 3
    plan = Plan(tuple(Stream(size) for size in sizes), "reference")

    def ours() -> None:
        for i in range(len(images)):
            load_parts(images, plan, i)

    def theirs() -> None:
        files = save_parts(images, scratch / "parts")
        for _ in range(networks):
            for size in sizes:
                for _batch in read_batches(files, size, options.batch):
                    pass

    best = best_of({"ours": ours, "files": theirs}, time.process_time)
    print(
        f"pixels    {networks} networks at {sizes} px, processor time of an image: "
        f"here {1000 * best['ours'] / len(images):.0f} ms, "
        f"by files {1000 * best['files'] / len(images):.0f} ms, "
        f"ratio {best['files'] / best['ours']:.1f}"
    )
    config = DescriptorConfig(backbone="mobilenetv3_small_050", dim=0)
    models = [Descriptor(config, seed=seed).eval() for seed in range(networks)]
    folders = [model.save(scratch / f"small{seed}") for seed, model in enumerate(models)]

    with open_executor("serial") as pool:

        def ours_whole() -> None:
            extract_parts(images, folders, sizes, scratch / "whole", pool, parts="reference",
                          batch_size=options.batch, device="cpu")  # fmt: skip
            shutil.rmtree(scratch / "whole")

        def theirs_whole() -> None:
            files = save_parts(images, scratch / "parts")
            for model in models:
                for size in sizes:
                    for pixels in read_batches(files, size, options.batch):
                        with torch.inference_mode():
                            model(pixels.permute(0, 3, 1, 2).float() / 255)

        best = best_of({"ours": ours_whole, "files": theirs_whole}, time.perf_counter)
    print(
        f"files     the same with a small network on each, one process: here {best['ours']:.2f} s, "
        f"by files {best['files']:.2f} s, ratio {best['files'] / best['ours']:.1f}"
    )


def save_parts(images: ImageSet, out: Path) -> list[Path]:
    """Every part of every image as a JPEG of quality 100."""
    out.mkdir(exist_ok=True)
    files = []
    for i, name in enumerate(images.ids):
        image = images.load(i)
        for part in reference_parts(*image.size):
            files.append(out / f"{name}_{part.number}.jpg")
            cut(image, part).save(files[-1], quality=100)
    return files


def read_batches(files: list[Path], size: int, batch: int) -> Iterator[torch.Tensor]:
    """Pictures read from files and squashed, (B, size, size, 3) uint8."""
    for start in range(0, len(files), batch):
        pictures = []
        for file in files[start : start + batch]:
            with Image.open(file) as image:
                pictures.append(prepare(image.convert("RGB"), size))
        yield torch.from_numpy(np.stack(pictures))


def time_regions(images: ImageSet) -> None:
    """Print milliseconds of selective search, of processor time."""
    spent, found = [], []
    for i in tqdm(range(len(images)), desc="regions"):
        image = images.load(i)
        scale = 640 / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size])
        started = time.process_time()
        found.append(len(find_regions(image)))
        spent.append(1000 * (time.process_time() - started))
    print(
        f"regions   median {np.median(spent):.0f} ms, most {max(spent):.0f} ms at 640 px; "
        f"{np.mean(found):.1f} regions an image"
    )


def best_of(runs: dict[str, Callable[[], None]], clock: Callable[[], float]) -> dict[str, float]:
    """Least time of each function in `ROUNDS` rounds, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    return {name: min(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
