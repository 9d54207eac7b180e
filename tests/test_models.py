"""Descriptor networks: shapes, norms, pooling, files on disc."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from iscutils.artifacts import KitError
from iscutils.models import Backbone, Descriptor, DescriptorConfig, GeM, load, model_key, state_key
from iscutils.preprocess import prepare

SMALL = DescriptorConfig(backbone="mobilenetv3_small_050", dim=16, size=64)


@pytest.fixture(scope="module")
def model():
    return Descriptor(SMALL).eval()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 96, 48)])
def test_descriptors_are_unit_rows(model, shape):
    rows = model(torch.rand(shape))
    assert rows.shape == (shape[0], 16)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.norm(dim=1), torch.ones(shape[0]), atol=1e-5)


def test_wrong_shape_is_refused(model):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        model(torch.rand(2, 1, 64, 64))


def test_gem_is_between_mean_and_maximum():
    features = torch.rand(2, 5, 4, 4, dtype=torch.float64) + 0.01
    assert torch.allclose(GeM(1)(features), features.mean((2, 3)))
    for p in (3, 10, 100):
        pooled, largest = GeM(p)(features), features.amax((2, 3))
        assert (pooled <= largest + 1e-12).all()
        assert (pooled >= largest * (1 / 16) ** (1 / p) - 1e-12).all()


def test_gem_counts_negative_values_as_nearly_nothing():
    assert torch.allclose(GeM(3)(-torch.ones(1, 2, 3, 3)), torch.full((1, 2), 1e-6))


def test_seed_fixes_the_weights_and_leaves_the_global_state():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (Descriptor(SMALL, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert state_key(first) == state_key(second) != state_key(other)


def test_save_and_load_give_the_same_descriptors(model, tmp_path):
    folder = model.save(tmp_path / "m", {"loss": np.float32(1)}, {"history.csv": "step\n0\n"})
    again, images = load(folder), torch.rand(2, 3, 64, 64)
    assert torch.equal(again(images), model(images))
    assert json.loads((folder / "metrics.json").read_text()) == {"loss": 1.0}
    assert not again.training
    assert model_key(folder) == model_key(folder)


def test_broken_model_folders_are_named(model, tmp_path):
    with pytest.raises(KitError, match=r"config.json is missing"):
        load(tmp_path)
    folder = model.save(tmp_path / "m")
    (folder / "config.json").write_text('{"backbone": "mobilenetv3_small_050", "dim": 8}')
    with pytest.raises(KitError, match="do not fit"):
        load(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(KitError, match="do not fit"):
        load(folder)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(KitError, match="resnet50"):
        Backbone("resnet5O")


def test_start_from_copies_the_backbone_only(tmp_path, model):
    folder = model.save(tmp_path / "m")
    other = Descriptor(DescriptorConfig(backbone=SMALL.backbone, dim=8), seed=9).start_from(folder)
    assert state_key(other.backbone) == state_key(model.backbone)
    with pytest.raises(KitError, match="resnet10t"):
        Descriptor(DescriptorConfig(backbone="resnet10t")).start_from(folder)


def test_zero_gamma_makes_residual_blocks_identities():
    zero = Backbone("resnet18", zero_gamma=True).net.layer1[0]
    assert float(zero.bn2.weight.detach().abs().sum()) == 0
    assert float(Backbone("resnet18").net.layer1[0].bn2.weight.detach().min()) == 1


def test_hidden_layer_of_a_student():
    student = Descriptor(DescriptorConfig(backbone=SMALL.backbone, dim=8, hidden=32))
    assert [layer.out_features for layer in student.head] == [32, 8]


def test_prepare_squashes_or_keeps_the_aspect():
    image = Image.new("RGB", (200, 100), "red")
    assert prepare(image, 50).shape == (50, 50, 3)
    assert prepare(image, 50, "short").shape == (50, 100, 3)
    with pytest.raises(KitError, match="squash or short"):
        prepare(image, 50, "stretch")


def test_dim_zero_gives_the_pooled_features():
    plain = Descriptor(DescriptorConfig(backbone=SMALL.backbone, dim=0)).eval()
    images = torch.rand(2, 3, 64, 64)
    pooled = torch.nn.functional.normalize(plain.pooled(images), dim=1)
    assert plain.dim == plain.backbone.channels
    assert torch.allclose(plain(images), pooled)
