"""Views that are edited once, with the teacher's vector of each: data for any number of students.

Editing a view and describing it by the teacher cost more than a step of a small student. On disc
they cost once: further students and further epochs read them. The price is that a student meets the
same views again, after `passes` epochs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from iscutils.edits import load_recipe
from iscutils.edits.tensor import TensorEdits
from iscutils.files.artifacts import KitError, atomic_path, content_key, wait_if_following
from iscutils.losses import unit
from iscutils.models import state_key
from iscutils.models.precision import pick_device, pick_precision
from iscutils.training.method import TrainConfig, seeded
from iscutils.training.pixels import EpochSampler, OneClassEach, Pixels, to_views, whole_batches

BATCH = 64  # images edited at once; part of the random stream


class StoredViews(OneClassEach, Dataset):
    """Two finished views of every photograph for each of several passes, and the teacher's vectors.

    Epoch e reads pass e modulo the number of passes. A batch is views (n, 2, 3, S, S) uint8,
    indices (n,), and the teacher's vectors (n, 2, W), as `Method.loss` takes them.
    """

    path = "stored"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.views, self.vectors = (
            [np.load(file, mmap_mode="r", allow_pickle=False) for file in self._files(kind)]
            for kind in ("views", "vectors")
        )
        if not self.views or len(self.views) != len(self.vectors):
            raise KitError(f"{folder} holds no stored views: run store_views")

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"[0-9]*.{kind}.npy"))

    def key(self) -> str:
        """Ten hexadecimal digits that change with the views."""
        return content_key(self.folder.name)

    def loader(self, config: TrainConfig) -> DataLoader:
        """Batches as described above."""
        sampler = EpochSampler(len(self), config.seed, mark=True)
        return whole_batches(self, sampler, config.batch_size)

    def __len__(self) -> int:
        return len(self.views[0])

    def __getitems__(
        self, items: list[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The batch of (epoch, index)."""
        number = items[0][0] % len(self.views)
        indices = np.asarray([index for _, index in items])
        views, vectors = self.views[number][indices], self.vectors[number][indices]
        return torch.from_numpy(views), torch.from_numpy(indices), torch.from_numpy(vectors).float()


def store_views(
    pixels: Pixels,
    config: TrainConfig,
    teacher: nn.Module,
    passes: int,
    folder: str | Path,
    device: str = "auto",
) -> StoredViews:
    """Edit all photographs `passes` times, two views each, and describe the views by the teacher.

    Every pass is two files that appear whole: a killed call goes on at the pass it was in.

    Args:
        pixels: the photographs.
        config: recipe, size, `mild_first`, `strength` and seed of the views.
        teacher: unit vectors of `.dim` values.
        passes: different pairs of views of each photograph.
        folder: where sets of pixels live; this one is named by its content.
        device: on which to edit and describe.

    Raises:
        KitError: no pass, or a recipe that mixes photographs of a batch (they differ by step).
    """
    recipe = load_recipe(config.recipe)
    if passes < 1 or recipe.mix:
        what = f"recipe {config.recipe} mixes photographs" if passes > 0 else f"{passes} passes"
        raise KitError(f"views cannot be stored: {what}; give one pass or more, or views='tensor'")
    described = (config.size, config.mild_first, config.strength, config.seed, BATCH)
    key = content_key(pixels.key(), recipe.key(), described, state_key(teacher))
    out = Path(folder) / f"views-{config.size}-{passes}-{key}"
    wait_if_following(out / f"{passes - 1:03d}.vectors.npy")
    chosen = pick_device(device)
    teacher = teacher.to(chosen)
    bf16 = pick_precision("auto", chosen, teacher) == "bf16-mixed"
    first = "original" if config.mild_first else "group"
    makers = [TensorEdits(recipe, config.size, group) for group in (first, "group")]
    shape = (len(pixels), 2, 3, config.size, config.size)
    with tqdm(total=passes * len(pixels), desc="store views") as bar:
        for number in range(passes):
            files = [out / f"{number:03d}.{kind}.npy" for kind in ("views", "vectors")]
            if files[1].exists():
                bar.update(len(pixels))
                continue
            with atomic_path(files[0]) as temporary:
                views = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
                vectors = np.zeros((len(pixels), 2, teacher.dim), np.float16)
                for start in range(0, len(pixels), BATCH):
                    rows = list(range(start, min(start + BATCH, len(pixels))))
                    generator = seeded(chosen, config.seed, number, start)
                    images = to_views(pixels.__getitems__(rows)[0].to(chosen))
                    made = [edit(images, generator, config.strength) for edit in makers]
                    for side, batch in enumerate(made):
                        views[rows, side] = (batch * 255).round().byte().cpu().numpy()
                        vectors[rows, side] = _describe(teacher, batch, bf16)
                    bar.update(len(rows))
                views.flush()
                del views  # before the file is renamed
            with atomic_path(files[1]) as temporary, open(temporary, "wb") as file:
                np.save(file, vectors)
    return StoredViews(out)


@torch.inference_mode()
def _describe(teacher: nn.Module, batch: torch.Tensor, bf16: bool) -> np.ndarray:
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
        rows = teacher(batch.contiguous(memory_format=torch.channels_last))
    return unit(rows).cpu().numpy()
