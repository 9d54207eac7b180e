"""Networks of D2LV and BoT, their published files, and files of pretraining."""

from __future__ import annotations

import json
import pickle
import re

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.models import (
    Backbone,
    Descriptor,
    DescriptorConfig,
    Projector,
    WaveBlock,
    folded,
    load,
    load_matched,
    state_key,
    weights_licence,
)
from iscutils.models.d2lv import official_name
from iscutils.models.ibn import IBN

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
R18, R50, R152 = (f"torchvision:resnet{depth}" for depth in (18, 50, 152))


def config(backbone=R18, projector="d2lv", **others) -> DescriptorConfig:
    settings = {"last_stride": 1, "wave": True, "size": 64, "dim": 16}
    return DescriptorConfig(backbone=backbone, projector=projector, **{**settings, **others})


# Published files, put together from torchvision's ResNets without the kit.


def norm_state(name: str, width: int) -> dict[str, torch.Tensor]:
    norm = nn.BatchNorm1d(width)
    return {f"{name}.{key}": value for key, value in norm.state_dict().items()}


def linear_state(name: str, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
    linear = nn.Linear(inputs, outputs)
    return {f"{name}.{key}": value for key, value in linear.state_dict().items()}


def split_norms(trunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """First norms of layers 1-3 as published IBN-a files have them."""
    split = {}
    for name, value in trunk.items():
        found = re.match(r"(layer[123]\.\d+\.bn1)\.(.+)", name)
        if not found:
            split[name] = value
            continue
        half = len(value) // 2 if value.ndim else 0
        split[f"{found[1]}.BN.{found[2]}"] = value[half:].clone() if value.ndim else value
        if found[2] in ("weight", "bias"):
            split[f"{found[1]}.IN.{found[2]}"] = value[:half].clone()
    return split


def official(trunk: dict[str, torch.Tensor], width: int, compact: int = 0):
    """State under the names of the released files, of a trunk with `width` pooled values."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 7, "layer4": 9}
    state = {}
    for name, value in trunk.items():
        first, rest = name.split(".", 1)
        if first != "fc":
            state[f"base.{places[first]}.{rest}"] = value
    state["base.10.p"] = torch.full((1,), 5.0)
    state |= linear_state("projector_feat_bn.0.0", width, 2 * width)
    state |= norm_state("projector_feat_bn.0.1", 2 * width)
    state |= linear_state("projector_feat_bn.0.3", 2 * width, 4 * width)
    state |= norm_state("projector_feat_bn.1", 4 * width)
    if compact:
        state |= norm_state("matrix_feat_bn.0.0", 4 * width)
        state |= linear_state("matrix_feat_bn.0.2", 4 * width, compact)
        state |= norm_state("matrix_feat_bn.1", compact)
    return state


def shaken(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Statistics and weights of norms that differ from each other."""
    generator = torch.Generator().manual_seed(3)
    for name, value in state.items():
        if value.dtype != torch.int64 and value.ndim == 1 and name != "base.10.p":
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.3)
    return state


@pytest.mark.parametrize(
    ("backbone", "compact", "entries", "parameters"),
    [
        (R50, 0, 333, 65_487_937),
        (R152, 0, 945, 100_123_713),
        ("resnet50_ibn_a", 0, 359, 65_487_937),
        (R50, 256, 345, 67_602_241),
    ],
)
def test_names_and_sizes_of_published_files(backbone, compact, entries, parameters):
    name = re.sub("torchvision:|_ibn_a", "", backbone)
    with torch.device("meta"):
        trunk = torchvision.models.get_model(name).state_dict()
        trunk = split_norms(trunk) if "ibn" in backbone else trunk
        file = official(trunk, 2048, compact)
        model = Descriptor(config(backbone, "bot" if compact else "d2lv", dim=compact)).eval()
        trunk_map = model.backbone(torch.zeros(2, 3, 256, 256))
        wide, descriptor = model.expand(torch.zeros(2, trunk_map.shape[1]))
    assert len(file) == entries
    shapes = {official_name(name): value.shape for name, value in model.state_dict().items()}
    assert {**shapes, "base.10.p": (1,)} == {name: value.shape for name, value in file.items()}
    assert model.parameter_count() + 1 == parameters  # and the power of the pooling
    assert trunk_map.shape == (2, 2048, 16, 16)
    assert wide.shape == (2, 8192)
    assert descriptor.shape == (2, compact or 8192)
    assert model.dim == (compact or 8192)


def written_out(trunk: nn.Module, state: dict, images: torch.Tensor):
    """D2LV's network with functions of torch: the pooled, wide and compact features."""
    x = trunk.relu(trunk.maxpool(trunk.bn1(trunk.conv1((images - MEAN) / STD))))
    x = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(x))))
    pooled = x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)

    def norm(x, name):
        entries = (state[f"{name}.{e}"] for e in ("running_mean", "running_var", "weight", "bias"))
        mean, variance, weight, bias = entries
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    wide = linear(pooled, "projector_feat_bn.0.0")
    wide = linear(leaky(norm(wide, "projector_feat_bn.0.1")), "projector_feat_bn.0.3")
    wide = norm(wide, "projector_feat_bn.1")
    if "matrix_feat_bn.1.weight" not in state:
        return pooled, wide, wide
    compact = linear(leaky(norm(wide, "matrix_feat_bn.0.0")), "matrix_feat_bn.0.2")
    return pooled, wide, norm(compact, "matrix_feat_bn.1")


@pytest.fixture(scope="module")
def trunk() -> nn.Module:
    """torchvision's ResNet-18 whose last layer keeps the size of its input."""
    network = torchvision.models.resnet18()
    network.load_state_dict(shaken(network.state_dict()))
    network.layer4[0].conv1.stride = network.layer4[0].downsample[0].stride = (1, 1)
    return network.eval()


@pytest.mark.parametrize("compact", [0, 24])
@pytest.mark.parametrize("wrapper", ["", "module."])
@torch.inference_mode()
def test_published_files_give_the_network_they_were_written_from(trunk, tmp_path, compact, wrapper):
    state = shaken(official(trunk.state_dict(), 512, compact))
    file = tmp_path / "baseline_cc_18.pth.tar"
    torch.save({wrapper + name: value for name, value in state.items()}, file)
    model = load(file)
    images = torch.rand(3, 3, 96, 64)
    pooled, wide, descriptor = written_out(trunk, state, images)
    assert model.config == DescriptorConfig(
        backbone=R18, dim=compact or 2048, size=256, last_stride=1, wave=True,
        projector="bot" if compact else "d2lv",
    )  # fmt: skip
    assert (model.training, model.pool.p, model.config.resize) == (False, 3.0, "squash")
    assert torch.allclose(model.pooled(images), pooled, rtol=1e-4)
    assert torch.allclose(model.expand(pooled)[0], wide, rtol=1e-3, atol=1e-4)
    assert torch.allclose(model.raw(images), descriptor, rtol=1e-3, atol=1e-3)
    assert torch.allclose(model(images), F.normalize(descriptor, dim=1), atol=1e-5)
    again = load(model.save(tmp_path / "folder"))
    assert again.config == model.config
    assert torch.equal(again(images), model(images))


def test_what_does_not_fit_in_a_published_file_is_named(trunk, tmp_path):
    state = official(trunk.state_dict(), 512)
    state["classifier_0.weight"] = torch.zeros(4, 2048)
    del state["base.5.0.conv1.weight"]
    torch.save(state, tmp_path / "x.pth.tar")
    with pytest.raises(KitError) as error:
        load(tmp_path / "x.pth.tar")
    assert "1 missing (base.5.0.conv1.weight)" in str(error.value)
    assert "1 unexpected (classifier_0.weight)" in str(error.value)
    torch.save({n: v for n, v in state.items() if n.startswith("base")}, tmp_path / "x.pth.tar")
    with pytest.raises(KitError, match="not those of a ResNet with its projector"):
        load(tmp_path / "x.pth.tar")


def test_max_pooling_before_or_behind_the_activation():
    network = torchvision.models.resnet18().eval()
    x = network.bn1(network.conv1(torch.randn(2, 3, 40, 40)))
    assert torch.equal(network.relu(network.maxpool(x)), network.maxpool(network.relu(x)))


# IBN-a.


def test_the_first_half_is_normalised_by_image_and_the_second_by_batch():
    norm, x = IBN(7), torch.randn(2, 7, 3, 4)
    for value in norm.parameters():
        nn.init.uniform_(value, 0.5, 1.5)
    norm(x * 2)  # statistics of its own
    for training in (True, False):
        batch = {"mean": x.mean((0, 2, 3)), "var": x.var((0, 2, 3), correction=0)}
        if not training:
            batch = {
                "mean": torch.cat([torch.zeros(3), norm.BN.running_mean]),
                "var": torch.cat([torch.zeros(3), norm.BN.running_var]),
            }
        y = norm.train(training)(x)
        for b in range(2):
            for c in range(7):
                part, own = (norm.IN, c) if c < 3 else (norm.BN, c - 3)
                mean, var = x[b, c].mean(), x[b, c].var(correction=0)
                if c >= 3:
                    mean, var = batch["mean"][c], batch["var"][c]
                expected = (x[b, c] - mean) / (var + 1e-5).sqrt() * part.weight[own]
                assert torch.allclose(y[b, c], expected + part.bias[own], atol=1e-5)


def test_split_norms_stand_in_layers_one_to_three():
    network = Backbone("resnet18_ibn_a").net
    places = [name for name, part in network.named_modules() if isinstance(part, IBN)]
    assert places == [f"layer{layer}.{block}.bn1" for layer in (1, 2, 3) for block in (0, 1)]
    with pytest.raises(KitError, match="nothing can be downloaded"):
        Backbone("resnet18_ibn_a", pretrained=True)
    with pytest.raises(KitError, match="resnet50_ibn_a"):
        Backbone("resnet50_ibn_b")
    assert weights_licence("resnet50_ibn_a") == "none to download"
    zero = Backbone("resnet18_ibn_a", zero_gamma=True).net
    assert float(zero.layer2[1].bn2.weight.detach().abs().sum()) == 0


# WaveBlock and strides.


@pytest.mark.parametrize(("rows", "kept"), [(32, 10), (16, 5), (3, 1), (1, 0)])
def test_one_stripe_keeps_its_values_in_training(rows, kept):
    wave, x = WaveBlock(), torch.rand(3, 4, rows, 5) + 0.5
    assert wave.eval()(x) is x
    wave.train()
    torch.manual_seed(0)
    starts = set()
    for _ in range(200):
        factors = wave(x) / x
        assert torch.allclose(factors, factors[:1, :1, :, :1].expand_as(factors))
        same = torch.isclose(factors[0, 0, :, 0], torch.ones(rows))
        assert torch.allclose(factors[0, 0, ~same, 0], torch.tensor(1.5))
        assert int(same.sum()) == kept
        start = int(same.int().argmax())
        assert same[start : start + kept].all()
        starts.add(start)
    assert starts == set(range(rows - kept + 1)) or kept == 0
    torch.manual_seed(4)
    first = wave(x)
    torch.manual_seed(4)
    assert torch.equal(wave(x), first)


@pytest.mark.parametrize("backbone", [R18, "resnet10t", "resnet18_ibn_a", "resnet26t"])
def test_stride_and_waves_change_no_names_of_weights(backbone):
    plain, changed = Backbone(backbone).eval(), Backbone(backbone, last_stride=1, wave=True).eval()
    assert list(changed.state_dict()) == list(plain.state_dict())
    changed.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        small, large = plain(images), changed(images)
        assert small.shape[2:] == (2, 3)
        assert large.shape[2:] == (4, 6)
        before = {}
        for name in ("layer2", "layer3"):
            getattr(changed.net, name)[-1].register_forward_hook(
                lambda _, inputs, output: before.update({name: (inputs[0], output)})  # noqa: B023
            )
            assert isinstance(getattr(changed.net, name)[-1], WaveBlock)
            changed(images)
            assert torch.equal(*before[name])
            changed.net.train()
            changed(images)
            assert not torch.equal(*before[name])
            changed.eval()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "mobilenetv3_small_050", "wave": True}, "wave is made for ResNets"),
        ({"backbone": "mobilenetv3_small_050", "last_stride": 1}, "last_stride=1 is made for"),
        ({"backbone": "resnetblur18", "last_stride": 1}, "cannot be removed"),
        ({"last_stride": 3}, "last_stride 3"),
        ({"projector": "d2vl"}, "'d2lv' or 'bot'"),
        ({"projector": "d2lv", "hidden": 8}, "head of its own"),
        ({"projector": "bot", "dim": 0}, "e.g. 256"),
    ],
)
def test_settings_that_make_no_network(settings, message):
    with pytest.raises(KitError, match=message):
        Descriptor(DescriptorConfig(**settings))


# Projectors.


@pytest.mark.parametrize(("projector", "dim"), [("d2lv", 2048), ("bot", 16)])
def test_a_step_of_training_leaves_the_biases_of_the_necks(projector, dim, tmp_path):
    model = Descriptor(config("resnet10t", projector, size=32)).train()
    assert (model.dim, model.config.dim, model.backbone.channels) == (dim, dim, 512)
    images = torch.rand(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    wide, descriptor = model.expand(model.pooled(images))
    assert (wide.shape, descriptor.shape) == ((4, 2048), (4, dim))
    assert (wide is descriptor) == (projector == "d2lv")
    assert torch.allclose(wide.mean(0), torch.zeros(2048), atol=1e-5)  # behind a batch norm
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-5)
    (wide[:, :8].pow(3).sum() + descriptor.pow(3).sum()).backward()
    before = state_key(model)
    optimiser.step()
    assert state_key(model) != before
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    necks = ["head.wide_neck.bias", "head.compact_neck.bias"][: 1 + (projector == "bot")]
    assert frozen == necks
    model.eval()
    assert all(float(model.state_dict()[name].abs().sum()) == 0 for name in necks)
    again = load(model.save(tmp_path / "m"))
    assert state_key(again) == state_key(model)
    assert not dict(again.named_parameters())[necks[0]].requires_grad
    with torch.inference_mode():
        rows = model.raw(images)
        assert rows.dtype == torch.float32
        assert torch.equal(F.normalize(rows, dim=1), model(images))
        assert torch.equal(folded(model)(images), model(images))


def test_raw_rows_of_other_heads():
    model = Descriptor(DescriptorConfig("mobilenetv3_small_050", dim=8, hidden=12)).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.raw(images), model.expand(model.pooled(images))[1])
    assert not torch.allclose(model.raw(images).norm(dim=1), torch.ones(2))


def test_projector_without_and_with_a_compact_part():
    pooled = torch.rand(5, 6)
    assert [part.shape for part in Projector(6)(pooled)] == [(5, 24), (5, 24)]
    assert [part.shape for part in Projector(6, 3)(pooled)] == [(5, 24), (5, 3)]


def test_model_folders_of_before_still_load(tmp_path):
    model = Descriptor(DescriptorConfig("mobilenetv3_small_050", dim=8))
    folder = model.save(tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text())
    for key in ("last_stride", "wave", "projector"):
        del settings[key]
    (folder / "config.json").write_text(json.dumps(settings))
    assert state_key(load(folder)) == state_key(model)


# Files of pretraining.


@pytest.fixture(scope="module")
def pretrained() -> dict[str, torch.Tensor]:
    """ResNet-18 with a classifier, under torchvision's names."""
    return shaken(torchvision.models.resnet18(num_classes=5).state_dict())


def trunk_of(state):
    return {name: value for name, value in state.items() if not name.startswith("fc")}


def as_arrays(state):
    return {name: value.numpy() for name, value in state.items()}


def write_barlow(path, state):
    torch.save(state, path / "resnet50_bar.pth")
    return path / "resnet50_bar.pth"


def write_full_checkpoint(path, state):
    wrapped = {f"module.backbone.{name}": value for name, value in state.items()}
    torch.save({"epoch": 1, "model": {**wrapped, "module.bn.bias": torch.zeros(3)}}, path / "f.pth")
    return path / "f.pth"


def write_arrays(path, state):
    content = {"model": as_arrays(trunk_of(state)), "matching_heuristics": True}
    (path / "byol.pkl").write_bytes(pickle.dumps(content))
    return path / "byol.pkl"


def write_tensors(path, state):
    (path / "byol.pkl").write_bytes(pickle.dumps({"model": trunk_of(state)}))
    return path / "byol.pkl"


@pytest.mark.parametrize(
    ("write", "unused"),
    [
        (write_barlow, ("fc.weight", "fc.bias")),
        (write_full_checkpoint, ("fc.weight", "fc.bias", "module.bn.bias")),
        (write_arrays, ()),
        (write_tensors, ()),
    ],
)
def test_pretraining_files_give_a_trunk_to_start_from(pretrained, tmp_path, write, unused, caplog):
    file = write(tmp_path, pretrained)
    model, match = load_matched(file)
    assert (match.matched, match.missing, match.unused) == (120, (), unused)
    assert (model.config.backbone, model.dim, model.size) == (R18, 512, 224)
    assert "120 weights matched, 0 missing" in str(match)
    for name, value in model.backbone.net.state_dict().items():
        assert torch.equal(value, pretrained[name]), name
    other = Descriptor(config()).start_from(file)  # of another stride, with waves and projector
    assert state_key(other.backbone) == state_key(model.backbone)
    assert (other.config.last_stride, other.dim) == (1, 2048)


def test_start_from_a_published_descriptor(trunk, tmp_path):
    torch.save(official(trunk.state_dict(), 512), tmp_path / "x.pth.tar")
    other = Descriptor(DescriptorConfig(R18, dim=8)).start_from(tmp_path / "x.pth.tar")
    assert torch.equal(other.backbone.net.layer4[1].conv2.weight, trunk.layer4[1].conv2.weight)


def test_pretrained_networks_with_split_norms(pretrained, tmp_path):
    state = split_norms(trunk_of(pretrained))
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    for name in counters:  # older versions of torch had none
        del state[name]
    (tmp_path / "ibn.pkl").write_bytes(pickle.dumps({"model": as_arrays(state)}))
    model, match = load_matched(tmp_path / "ibn.pkl")
    assert model.config.backbone == "resnet18_ibn_a"
    assert (match.matched, len(match.missing)) == (len(state), len(counters))
    assert sorted(match.missing) == sorted(counters)
    got = model.backbone.net.state_dict()
    assert all(torch.equal(got[name], value) for name, value in state.items())
    assert not match.unused


def test_of_two_trunks_the_teacher_is_taken(pretrained, tmp_path):
    other = {name: value + 1 for name, value in pretrained.items()}
    both = {f"student.{n}": v for n, v in other.items()}
    both |= {f"teacher.encoder.{n}": v for n, v in pretrained.items()}
    torch.save({"model": both}, tmp_path / "x.pth")
    model, match = load_matched(tmp_path / "x.pth")
    assert torch.equal(model.backbone.net.conv1.weight, pretrained["conv1.weight"])
    assert len(match.unused) == 2 + 122
    twins = {n.replace("teacher.encoder", "b"): v for n, v in both.items()}
    torch.save(twins, tmp_path / "x.pth")
    with pytest.raises(KitError, match=r"several trunks \(below student\., b\.\)"):
        load(tmp_path / "x.pth")


def test_incomplete_trunks_are_refused(pretrained, tmp_path):
    state = dict(pretrained)
    del state["layer3.1.conv2.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(KitError) as error:
        load(tmp_path / "x.pth")
    assert "1 missing (layer3.1.conv2.weight)" in str(error.value)
    assert "1 of another shape (layer1.0.conv1.weight (3,)" in str(error.value)
    state = {n: v for n, v in pretrained.items() if not n.startswith("layer3.1")}
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"model": as_arrays(state)}))
    with pytest.raises(KitError, match="no known depth"):
        load(tmp_path / "y.pkl")
