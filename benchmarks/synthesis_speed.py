"""Speed of making edited copies, against the same recipes written with AugLy alone.

    python benchmarks/synthesis_speed.py [FOLDER] [--images 60] [--parts recipes workers operations]

FOLDER holds photographs; without one, the builtin images are used. All become JPEGs of 500 px.
recipes: images a second of processor time, from JPEG file to edited 8-bit picture (best of five
rounds, taken in turns, so that other work on the machine touches both alike). AugLy cannot turn
hues and its perspective fails today: hues are left out on both sides, the perspective on AugLy's.
workers: a training set on disc with one process and with two.
operations: milliseconds of every operation on 512 x 512 px, slowest first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from iscutils import edits
from iscutils.datasets import open_images
from iscutils.edits.parameters import Choice
from iscutils.edits.recipes import Recipe
from iscutils.files.executor import open_executor

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="builtin")
    parser.add_argument("--images", type=int, default=60)
    parts = ["recipes", "workers", "operations"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        files = jpegs(options.folder, options.images, Path(scratch) / "photographs")
        if "recipes" in options.parts:
            compare_recipes(files)
        if "workers" in options.parts:
            compare_workers(files[0].parent, Path(scratch))
    if "operations" in options.parts:
        time_operations()


def jpegs(folder: str, number: int, out: Path) -> list[Path]:
    """Photographs as JPEG files whose long side is 500 px."""
    images = open_images(folder, limit=number) if folder == "builtin" else open_images(folder)
    out.mkdir()
    files = []
    for i in range(min(number, len(images))):
        picture = images.load(i)
        scale = 500 / max(picture.size)
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
        files.append(out / f"{i:05d}.jpg")
        picture.save(files[-1], quality=90)
    return files


def compare_recipes(files: list[Path]) -> None:
    """Print images a second of two recipes, here and with AugLy, and the ratio."""
    warnings.filterwarnings("ignore")
    import augly.image.functional as augly

    for name, other in (("sscd/advanced", sscd_advanced), ("d2lv/basic", d2lv_basic)):
        recipe = without_hue(edits.load_recipe(name))
        donors = [np.array(Image.open(file).convert("RGB")) for file in files[:4]]
        donors = [Image.fromarray(pixels) for pixels in donors]

        def ours(file: Path, seed: int, recipe=recipe, donors=donors) -> None:
            image = Image.open(file).convert("RGB")
            np.asarray(edits.edit(image, recipe, np.random.default_rng(seed), donors).image)

        def theirs(file: Path, seed: int, other=other, donors=donors) -> None:
            image = Image.open(file).convert("RGB")
            np.asarray(other(augly, image, np.random.default_rng(seed), donors).convert("RGB"))

        times = {"iscutils": [], "AugLy": []}
        for number in range(ROUNDS + 1):  # the first round warms up
            for label, run in (("iscutils", ours), ("AugLy", theirs)):
                started = time.process_time()  # of the processor: other work does not count
                for i, file in enumerate(files):
                    run(file, 1000 * number + i)
                times[label].append(time.process_time() - started)
        best = {label: len(files) / min(seconds[1:]) for label, seconds in times.items()}
        print(
            f"{name:15} iscutils {best['iscutils']:6.1f}/s  AugLy {best['AugLy']:6.1f}/s  "
            f"ratio {best['iscutils'] / best['AugLy']:.2f}"
        )


def without_hue(recipe: Recipe) -> Recipe:
    """The recipe with no turn of hues in its jitter: AugLy's has none."""
    for leaf in recipe.group.leaves():
        if leaf.operation == "jitter":
            leaf.parameters["hue"] = Choice((0.0,))
    return recipe


def sscd_advanced(augly, image, rng, donors):
    """SSCD's advanced views with AugLy's functions."""
    image = augly.hflip(image) if rng.random() < 0.5 else image
    if rng.random() < 0.05:
        image = augly.rotate(image, degrees=90 * int(rng.integers(1, 4)))
    image = text(augly, image, rng, 100, (0.1, 0.3)) if rng.random() < 0.1 else image
    if rng.random() < 0.2:
        image = emoji(augly, image, rng, (0.1, 0.5), 1.0)
    image = augly.rotate(image, degrees=int(rng.integers(360))) if rng.random() < 0.05 else image
    image = augly.resize(random_crop(augly, image, rng, 0.08), width=224, height=224)
    if rng.random() < 0.8:
        image = augly.color_jitter(image, None, *rng.uniform(0.2, 1.8, 3))
    image = augly.grayscale(image) if rng.random() < 0.2 else image
    image = augly.blur(image, radius=rng.uniform(1, 5)) if rng.random() < 0.5 else image
    if rng.random() < 0.2:
        image = augly.encoding_quality(image, quality=int(rng.integers(0, 101)))
    return image


def d2lv_basic(augly, image, rng, donors):
    """Three of D2LV's seventeen edits with AugLy's functions.

    Two of AugLy 1.0 fail with today's Pillow and NumPy: the caption is a border with text here, and
    the perspective does nothing, so it counts as free.
    """
    donor = donors[int(rng.integers(len(donors)))]
    operations = (
        lambda x: square(augly, random_crop(augly, x, rng, 0.3)),
        lambda x: augly.overlay_image(
            square(augly, donor), square(augly, x), opacity=rng.uniform(0.2, 1),
            overlay_size=1.0, x_pos=0.0, y_pos=0.0, max_visible_opacity=1.0,
        ),
        augly.grayscale,
        lambda x: augly.color_jitter(x, None, *rng.uniform(0, (4, 5, 5))),
        lambda x: augly.blur(x, radius=rng.uniform(2, 5)),
        lambda x: augly.pixelization(x, ratio=rng.uniform(0.1, 1)),
        lambda x: augly.rotate(x, degrees=rng.uniform(0, 360)),
        lambda x: augly.pad(x, None, *rng.uniform(0, 0.5, 2), colour(rng)),
        lambda x: augly.random_noise(x, mean=rng.uniform(0, 0.5), var=rng.uniform(0, 0.5)),
        augly.vflip,
        augly.hflip,
        lambda x: text(augly, augly.pad(x, w_factor=0.0, h_factor=rng.uniform(0.1, 0.4)), rng, 10,
                       (0.1, 0.3)),
        lambda x: emoji(augly, x, rng, (0.2, 1.0), 0.5),
        lambda x: text(augly, x, rng, 20, (0.05, 1.0)),
        lambda x: x,
        lambda x: augly.overlay_onto_background_image(
            x, donor, opacity=rng.uniform(0.6, 1), overlay_size=rng.uniform(0.5, 1),
            x_pos=rng.uniform(0, 0.5), y_pos=rng.uniform(0, 0.5),
        ),
        lambda x: stack(augly, x, donor),
    )  # fmt: skip
    for index in rng.choice(len(operations), 3, replace=False):
        image = operations[index](image).convert("RGB")
    return square(augly, image)


def square(augly, image):
    return augly.resize(image, width=256, height=256)


def random_crop(augly, image, rng, least):
    area, ratio = rng.uniform(least, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    pixels = area * image.width * image.height
    width = min(1.0, np.sqrt(pixels * ratio) / image.width)
    height = min(1.0, np.sqrt(pixels / ratio) / image.height)
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return augly.crop(image, x1=x, y1=y, x2=x + width, y2=y + height)


def emoji(augly, image, rng, sizes, reach):
    files = edits.assets.emoji_files()
    return augly.overlay_emoji(
        image, emoji_path=str(files[int(rng.integers(len(files)))]), opacity=rng.uniform(0.7, 1),
        emoji_size=rng.uniform(*sizes), x_pos=rng.uniform(0, reach), y_pos=rng.uniform(0, reach),
    )  # fmt: skip


def text(augly, image, rng, longest, sizes):
    """Letters by their number in AugLy's default font."""
    return augly.overlay_text(
        image, text=[int(v) for v in rng.integers(0, 60, int(rng.integers(1, longest)))],
        font_size=rng.uniform(*sizes), opacity=rng.uniform(0.1, 1), color=colour(rng),
        x_pos=rng.uniform(0, 0.5), y_pos=rng.uniform(0, 0.5),
    ).convert("RGB")  # fmt: skip


def stack(augly, image, donor):
    """AugLy has no stacking: its border, with the other photograph pasted into it."""
    wide = augly.pad(image, w_factor=0.5, h_factor=0.0)
    return augly.overlay_image(wide, donor, overlay_size=1.0, x_pos=0.75, y_pos=0.0)


def colour(rng) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def compare_workers(folder: Path, scratch: Path) -> None:
    """Print pictures a second of a set on disc with one and with two processes."""
    images, speeds, copies = open_images(str(folder)), {}, 120  # enough to make starting cheap
    for workers in (1, 2):
        with open_executor("processes", workers) as pool:
            started = time.perf_counter()
            out = scratch / f"set{workers}"
            edits.synthesise(images, "d2lv/basic", copies, out, executor=pool, check_disc=False)
        speeds[workers] = copies * len(images) / (time.perf_counter() - started)
    print(
        f"set on disc     1 process {speeds[1]:6.1f}/s  2 processes {speeds[2]:6.1f}/s  "
        f"ratio {speeds[2] / speeds[1]:.2f}"
    )


def time_operations() -> None:
    """Print the slowest operations on 512 x 512 px: median of five draws, best of two runs each."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 40, 40, 3), np.uint8)
    image, *donors = [Image.fromarray(pixels).resize((512, 512)) for pixels in coarse]
    rows = []
    for name in edits.REGISTRY:
        draws = []
        for seed in range(5):
            operation = [edits.draw_operation(name, np.random.default_rng(seed))]
            runs = []
            for _ in range(2):
                started = time.perf_counter()
                edits.apply(image, operation, donors)
                runs.append(time.perf_counter() - started)
            draws.append(1000 * min(runs))
        rows.append((np.median(draws), max(draws), name))
    print("operation, 512 x 512 px     median ms   slowest draw ms")
    for median, slowest, name in sorted(rows, reverse=True)[:20]:
        print(f"{name:25} {median:10.1f} {slowest:14.1f}")


if __name__ == "__main__":
    main()
