"""Figures of notebook 04: the frontier of cost against µAP, views in the plane."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

from iscutils import figures
from iscutils.models import Descriptor, DescriptorConfig
from iscutils.training import Pixels, TrainConfig
from iscutils.training.probe import Probe, fitting


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels")
    coarse = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3), np.uint8)
    np.save(folder / "00000.npy", np.repeat(np.repeat(coarse, 8, 1), 8, 2))
    (folder / "ids.txt").write_text("\n".join(f"p{i}" for i in range(24)))
    return Pixels(folder)


@pytest.fixture(scope="module")
def models():
    small = [Descriptor(DescriptorConfig("mobilenetv3_small_050", dim=d, size=32)) for d in (16, 8)]
    return {"teacher": small[0].eval(), "student": small[1].eval()}


def test_frontier_says_what_each_model_costs_and_reaches(pixels, models):
    probe = Probe(pixels, 32)
    table = figures.frontier_table(models, probe, pixels, dims=(4, 8)).set_index("model")
    assert table.index.tolist() == ["teacher", "student"] + ["teacher, PCA"] * 2 + ["PDQ hash"]
    assert table["bytes"].tolist() == [64, 32, 16, 32, 32]
    weights = sum(w.numel() for w in models["teacher"].parameters()) / 1e6
    assert table.loc["teacher", "weights"] == pytest.approx(weights)
    assert table.loc["teacher", "uap"] == probe(models["teacher"])["uap"]
    assert (table["images a second"] > 0).all()
    assert table["uap"].between(0, 1).all()
    axes = figures.frontier(table.reset_index())
    assert [len(ax.lines) for ax in axes] == [4, 3, 4]  # the hash has no weights


def test_views_lie_round_their_photograph(pixels, models):
    config = TrainConfig(size=32)
    axes = figures.views_in_the_plane(models, pixels, config, photos=4)
    assert [ax.get_title() for ax in axes] == ["teacher", "student"]
    assert [len(ax.lines) for ax in axes] == [8, 8]  # views and the photograph, four times


class Patches(torch.nn.Module):
    """Takes images of whole patches of 7 px alone, as a vision transformer does."""

    size, patch = 35, 7

    def forward(self, images):
        assert images.shape[-1] % self.patch == 0
        return torch.nn.functional.normalize(images.flatten(1)[:, :64], dim=1)


def test_pixels_are_shrunk_for_networks_of_patches_alone(pixels, models):
    images = torch.rand(2, 3, 48, 48)
    assert fitting(images, Patches()).shape == (2, 3, 35, 35)
    assert fitting(images, models["teacher"]) is images
    assert len(figures.compare_similarities(Patches(), Patches(), pixels, count=6)) == 3
