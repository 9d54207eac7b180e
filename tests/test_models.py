"""Descriptor networks: shapes, norms, pooling, files on disc."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from iscutils.files.artifacts import KitError
from iscutils.files.prepare import prepare
from iscutils.models import (
    STUDENTS,
    Backbone,
    Descriptor,
    DescriptorConfig,
    GeM,
    TokenGeM,
    folded,
    load,
    model_key,
    state_key,
    student_config,
    weights_licence,
)

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
    with pytest.raises(KitError, match=r"do not fit.*head\.weight \(16, .*instead of \(8, "):
        load(folder)
    (folder / "config.json").write_text('{"backbone": "mobilenetv3_small_050", "width": 8}')
    with pytest.raises(KitError, match=r"do not fit.*width"):
        load(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(KitError, match="do not fit"):
        load(folder)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(KitError, match="resnet50"):
        Backbone("resnet5O")


def test_start_from_copies_the_backbone_and_a_head_of_the_same_shape(tmp_path, model):
    folder = model.save(tmp_path / "m")
    other = Descriptor(DescriptorConfig(backbone=SMALL.backbone, dim=8), seed=9).start_from(folder)
    assert state_key(other.backbone) == state_key(model.backbone)
    assert SMALL.dim != 8
    assert state_key(Descriptor(SMALL, seed=9).start_from(folder)) == state_key(model)
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


# Trunks and students of the published systems.

# As kd_icd and RDCD publish them, with a descriptor of 512 values: parameters in M, pooled
# channels, and the blocks that tell one trunk from another.
PUBLISHED = {
    "efficientnet_b0": (4.66, 1280, ("MBConv", 16)),
    "mobilenet_v3_large": (4.86, 960, ("InvertedResidual", 15)),
    "mobilevit_s": (5.27, 640, ("MobileVitBlock", 3)),
    "regnet_y_800mf": (6.05, 784, ("ResBottleneckBlock", 14)),
    "resnet18": (11.44, 512, ("BasicBlock", 8)),
    "fastvit_t12": (7.05, 1024, ("RepMixerBlock", 12)),
}
FOLDED = {
    "efficientnet_b0": {64: 4.09, 128: 4.17, 256: 4.34},
    "mobilenet_v3_large": {64: 4.28, 128: 4.37, 256: 4.53},
    "fastvit_t12": {64: 6.59, 128: 6.66, 256: 6.79},
}


def in_millions(model) -> float:
    return round(model.parameter_count() / 1e6, 2)


@pytest.fixture(scope="module", params=list(PUBLISHED))
def student(request):
    """A student's name, and the student with a descriptor of 512 values."""
    return request.param, Descriptor(student_config(request.param, 512, size=64)).eval()


def test_students_have_their_published_size_and_give_unit_rows(student):
    name, model = student
    millions, channels, _ = PUBLISHED[name]
    assert in_millions(model) == millions
    assert model.backbone.channels == channels
    with torch.inference_mode():
        for shape in ((2, 3, 224, 224), (2, 3, 288, 160)):
            images = torch.rand(shape)
            pooled = model.pooled(images)
            rows = model(images)
            assert pooled.shape == (2, channels)
            assert rows.shape == (2, 512)
            assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-5)
            wide, compact = model.expand(pooled)
            assert torch.equal(wide, compact)
            assert torch.equal(torch.nn.functional.normalize(compact, dim=1), rows)


def test_students_are_the_named_networks(student):
    name, model = student
    block, count = PUBLISHED[name][2]
    assert sum(type(part).__name__ == block for part in model.backbone.modules()) == count


def test_students_survive_a_step_and_their_folder(student, tmp_path):
    name, _ = student
    model = Descriptor(student_config(name, 64, hidden=128, size=64, dropout=0.2)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    (model(torch.rand(4, 3, 64, 64)) @ torch.randn(64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimiser.step()
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    again, images = load(model.eval().save(tmp_path / "m")), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert again.config == model.config


@pytest.mark.parametrize("name", list(FOLDED))
def test_folded_students_have_their_published_size(name):
    for dim, millions in FOLDED[name].items():
        model = Descriptor(student_config(name, dim, hidden=512, size=64))
        assert in_millions(folded(model)) == millions


def test_resnet18_without_a_head():
    assert in_millions(Descriptor(DescriptorConfig("torchvision:resnet18", dim=0))) == 11.18


@pytest.mark.parametrize("name", list(STUDENTS))
@torch.inference_mode()
def test_folding_keeps_the_descriptors(name):
    model = Descriptor(student_config(name, 64, hidden=512, size=96), seed=1).train()
    for _ in range(2):  # batch norms with statistics of their own
        model(torch.rand(4, 3, 96, 96))
    model.eval()
    state = state_key(model)
    plain = folded(model)
    assert (plain.config.hidden, plain.config.dim, plain.training) == (0, 64, False)
    assert state_key(model) == state
    shapes = [(2, 3, 96, 96), (5, 3, 96, 96), (1, 3, 160, 64), (3, 3, 224, 224)]
    for shape in shapes:
        images = torch.rand(shape)
        assert torch.allclose(plain(images), model(images), atol=1e-5)


def test_expand_gives_the_wide_and_the_compact_features():
    student = Descriptor(student_config("mobilenet_v3_large", 8, hidden=32, size=64)).eval()
    pooled = student.pooled(torch.rand(3, 3, 64, 64))
    wide, compact = student.expand(pooled)
    necked = torch.nn.functional.hardswish(pooled @ student.neck[0].weight.T)
    assert (pooled.shape, necked.shape) == ((3, 960), (3, 1280))
    assert torch.allclose(wide, necked @ student.head[0].weight.T, atol=1e-5)
    assert torch.allclose(compact, wide @ student.head[1].weight.T, atol=1e-5)


def test_dropout_is_for_training_alone():
    config = DescriptorConfig(SMALL.backbone, dim=8, size=64, dropout=0.5)
    model = Descriptor(config)
    pooled = torch.rand(2, model.backbone.channels)
    assert not torch.equal(model.expand(pooled)[1], model.expand(pooled)[1])
    model.eval()
    assert torch.equal(model.expand(pooled)[1], model.expand(pooled)[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neck": "relu"}, "hardswish"),
        ({"dropout": 1.0}, "dropout"),
        ({"dim": 0, "hidden": 8}, "dim 0"),
        ({"backbone": "torchvision:resnet5O"}, "torchvision has no trunk.*resnet50"),
        ({"backbone": "vit_base_patch16_224.nonsense"}, "nonsense"),
        ({"backbone": "torchvision:efficientnet_b0", "zero_gamma": True}, "zero_gamma=False"),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "choose a"),
    ],
)
def test_settings_that_make_no_network(settings, message):
    with pytest.raises(KitError, match=message):
        Descriptor(DescriptorConfig(**settings))


def test_resnext_has_no_weights_to_start_from():
    with pytest.raises(KitError, match="sscd_disc_large"):
        Backbone("torchvision:resnext101_32x4d", pretrained=True)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("torchvision:resnet18", "bn2.weight"),
        ("torchvision:resnet50", "bn3.weight"),
        ("torchvision:regnet_y_400mf", "f.c.1.weight"),
        ("regnety_002", "conv3.bn.weight"),
    ],
)
def test_zero_gamma_of_every_residual_family(name, last):
    for zero_gamma in (True, False):
        state = Backbone(name, zero_gamma=zero_gamma).net.state_dict()
        gammas = [value for key, value in state.items() if key.endswith(last)]
        assert len(gammas) > 3
        assert all((value == (not zero_gamma)).all() for value in gammas)


def test_a_transformer_pools_class_token_and_patches():
    tokens = torch.randn(2, 1 + 6, 5, dtype=torch.float64)
    pooled = TokenGeM(4)(tokens)
    assert torch.equal(pooled[:, :5], tokens[:, 0])
    slow = [[np.mean([max(float(v), 1e-6) ** 4 for v in tokens[b, 1:, c]]) ** 0.25
             for c in range(5)] for b in range(2)]  # fmt: skip
    assert np.allclose(pooled[:, 5:], slow)
    model = Descriptor(DescriptorConfig("vit_tiny_patch16_224", dim=0, size=64, gem=4)).eval()
    assert model.dim == model.backbone.channels == 384
    assert model(torch.rand(2, 3, 64, 32)).shape == (2, 384)
    with pytest.raises(KitError, match="multiples of 16"):
        model(torch.rand(2, 3, 65, 64))


def test_registers_of_a_transformer_are_left_out():
    model = Descriptor(DescriptorConfig("vit_small_patch14_reg4_dinov2", dim=0)).eval()
    images = torch.rand(1, 3, 56, 28)
    with torch.inference_mode():
        assert model.backbone((images - model.mean) / model.std).shape == (1, 1 + 8, 384)
        assert model(images).shape == (1, 768)


def test_model_folders_of_before_still_load(model, tmp_path):
    folder = model.save(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for key in ("neck", "dropout"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    assert state_key(load(folder)) == state_key(model)


def test_licences_of_start_weights():
    assert weights_licence("mobilevit_s") == "cvnets-license"
    assert weights_licence("vit_base_patch16_224.dino") == "apache-2.0"
    assert "torchvision" in weights_licence("torchvision:resnet18")
