"""EsViT's Swin transformers: features, published files, tables of positions, use in the kit."""

from __future__ import annotations

import argparse
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F

from iscutils.descriptors.extract import extract
from iscutils.descriptors.store import read_descriptors
from iscutils.files.artifacts import KitError
from iscutils.files.executor import open_executor
from iscutils.files.images import open_folder
from iscutils.models import (
    Descriptor,
    DescriptorConfig,
    load,
    load_matched,
    state_key,
    student_config,
    weights_licence,
)
from iscutils.models.swin import SWINS, TABLE, EsViT, to_timm

BASE, NANO = "esvit_swin_base_w14", "esvit_swin_nano"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def model() -> Descriptor:
    """The nano network with tables and norms that differ from place to place."""
    network = Descriptor(student_config(NANO, 24, size=96)).eval()
    generator = torch.Generator().manual_seed(1)
    for value in network.parameters():
        noise = torch.randn(value.shape, generator=generator) * 0.1
        value.data += noise
    return network


def test_the_base_network_is_swin_base_with_windows_of_fourteen():
    with torch.device("meta"):
        ours = EsViT(BASE).state_dict()
        theirs = timm.create_model("swin_base_patch4_window7_224", window_size=14, num_classes=0)
        model = Descriptor(student_config(BASE, 256, size=224))
    assert {n: v.shape for n, v in ours.items()} == {
        n: v.shape for n, v in theirs.state_dict().items()
    }
    windows = {block.window_size for stage in theirs.layers[:3] for block in stage.blocks}
    last = {block.window_size for block in theirs.layers[3].blocks}
    assert (windows, last) == ({(14, 14)}, {(7, 7)})
    assert model.backbone.channels == 512 + 512 + 1024 + 1024
    assert (model.head.in_features, model.head.out_features) == (3072, 256)
    assert model.head.bias is not None
    # Swin-B of timm has 86.7 M without the classifier; larger tables and 3072 x 256 + 256 more.
    assert model.parameter_count() == sum(v.numel() for v in ours.values()) + 3072 * 256 + 256


@torch.inference_mode()
def test_features_are_token_averages_of_the_last_four_blocks(model):
    net, seen = model.backbone.net, []
    hooks = [
        block.register_forward_hook(lambda _, __, tokens: seen.append(tokens))
        for stage in net.layers
        for block in stage.blocks
    ]
    images = torch.rand(2, 3, 96, 96)
    pooled = model.pooled(images)
    for hook in hooks:
        hook.remove()
    assert [tuple(tokens.shape[1:]) for tokens in seen[-4:]] == [(6, 6, 64)] * 2 + [(3, 3, 128)] * 2
    expected = []
    for tokens in (*seen[-4:-2], net.norm(seen[-2]), net.norm(seen[-1])):
        total = sum(tokens[:, y, x] for y in range(tokens.shape[1]) for x in range(tokens.shape[2]))
        expected.append(total / (tokens.shape[1] * tokens.shape[2]))
    assert pooled.shape == (2, 384)
    assert torch.allclose(pooled, torch.cat(expected, 1), atol=1e-4)
    # The trunk itself is timm's.
    normalised = (images - MEAN) / STD
    assert torch.allclose(net.forward_features(normalised), net.norm(seen[-1]), atol=1e-5)
    linear = pooled @ model.head.weight.T + model.head.bias
    assert torch.allclose(model(images), F.normalize(linear, dim=1), atol=1e-5)


@torch.inference_mode()
def test_rows_do_not_depend_on_their_batch_and_sizes_may_differ(model):
    images = torch.rand(3, 3, 96, 96)
    assert torch.allclose(model(images)[1:2], model(images[1:2]), atol=1e-5)
    for shape in ((2, 3, 64, 64), (1, 3, 80, 128)):
        assert model(torch.rand(shape)).shape == (shape[0], 24)
    with pytest.raises(KitError, match="multiples of 4"):
        model(torch.rand(1, 3, 65, 64))


def test_a_step_of_training_reaches_every_weight(model, tmp_path):
    images = torch.rand(4, 3, 64, 64)
    network = Descriptor(student_config(NANO, 8, size=64)).train()
    rows = network(images.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(rows, network(images), atol=1e-5)
    (rows @ torch.randn(8)).sum().backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in network.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert network.raw(images).dtype == torch.float32
        assert network.pooled(images).dtype == torch.float32


def test_model_folders_extraction_and_start(model, tmp_path):
    folder = model.save(tmp_path / "m")
    again = load(folder)
    images = torch.rand(2, 3, 96, 96)
    assert again.config == model.config
    assert torch.equal(again(images), model(images))
    started = Descriptor(DescriptorConfig(NANO, dim=0, size=96)).start_from(folder)
    assert state_key(started.backbone) == state_key(model.backbone)
    assert started.dim == 384
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        pixels = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"p{i}.png")
    with open_executor("serial") as pool:
        file = extract(open_folder(photos), folder, [96], tmp_path, pool, device="cpu")
    stored = read_descriptors(file)
    picture = Image.open(photos / "p1.png").resize((96, 96), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        assert np.allclose(stored.vectors[1], model(pixels)[0].numpy(), atol=1e-4)


def test_what_the_network_cannot_do_is_said():
    with pytest.raises(KitError, match="nothing can be downloaded"):
        Descriptor(DescriptorConfig(NANO), pretrained=True)
    for settings in ({"zero_gamma": True}, {"wave": True}, {"last_stride": 1}):
        with pytest.raises(KitError, match=NANO):
            Descriptor(DescriptorConfig(NANO, **settings))
    with pytest.raises(KitError, match=BASE):
        Descriptor(DescriptorConfig("esvit_swin_base_w7"))
    assert weights_licence(BASE) == "none to download"


# Published files, written with the names of the original Swin code.


def published(model: Descriptor, prefix: str = "", last_window: int = 0) -> dict:
    """State of a nano network as the original code names it, with its computed buffers."""
    state = {}
    for name, value in model.backbone.net.state_dict().items():
        # There, a stage ends with the merging of patches; here, the next one begins with it.
        stage = re.match(r"layers\.(\d)\.downsample", name)
        if stage:
            name = name.replace(stage[0], f"layers.{int(stage[1]) - 1}.downsample")
        if last_window and name.startswith("layers.3") and name.endswith(TABLE):
            value = enlarged(value, last_window)
        state[prefix + name] = value
    for stage in range(4):
        state[f"{prefix}layers.{stage}.blocks.1.attn_mask"] = torch.zeros(4, 36, 36)
        for block in range(2):
            name = f"{prefix}layers.{stage}.blocks.{block}.attn.relative_position_index"
            state[name] = torch.zeros(36, 36, dtype=torch.int64)
    return state


def enlarged(table: torch.Tensor, window: int) -> torch.Tensor:
    """A table for a larger window: the same at distances that were there, noise at others."""
    small, heads = (round(len(table) ** 0.5) + 1) // 2, table.shape[1]
    large = torch.randn((2 * window - 1) ** 2, heads)
    for dy in range(1 - small, small):
        for dx in range(1 - small, small):
            old = (dy + small - 1) * (2 * small - 1) + dx + small - 1
            large[(dy + window - 1) * (2 * window - 1) + dx + window - 1] = table[old]
    return large


def dino_head(prefix: str) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}head.mlp.0.weight": torch.zeros(32, 128),
        f"{prefix}head.mlp.0.bias": torch.zeros(32),
    }


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
@pytest.mark.parametrize("last_window", [0, 6])
def test_checkpoints_of_pretraining_give_the_teacher(model, tmp_path, prefix, last_window):
    teacher = published(model, prefix, last_window) | dino_head("module.")
    student = {name: torch.zeros_like(value) for name, value in teacher.items()}
    content = {"student": student, "teacher": teacher, "epoch": 3}
    content["args"] = argparse.Namespace(arch="swin_base")
    torch.save(content, tmp_path / "checkpoint.pth")
    loaded, match = load_matched(tmp_path / "checkpoint.pth")
    assert (loaded.config.backbone, loaded.dim, loaded.size) == (NANO, 384, 96)
    assert state_key(loaded.backbone) == state_key(model.backbone)
    images = torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(loaded.pooled(images), model.pooled(images))
    assert match.matched == len(model.backbone.state_dict())
    assert match.missing == ()
    assert len(match.unused) == 2
    tables = [f"layers.3.blocks.{block}.{TABLE}" for block in (0, 1)]
    assert list(match.resized) == (tables if last_window else [])
    assert f"{len(tables) if last_window else 0} resized" in str(match)


@pytest.mark.parametrize(("head", "wrapper"), [("fc", ""), ("head", "module."), ("head.0", "")])
def test_the_linear_layer_of_the_finetuned_network_is_found(model, tmp_path, head, wrapper):
    state = published(model, wrapper)
    state[f"{wrapper}{head}.weight"] = model.head.weight.detach()
    state[f"{wrapper}{head}.bias"] = model.head.bias.detach()
    torch.save({"state_dict": state}, tmp_path / "x.pth.tar")
    loaded, match = load_matched(tmp_path / "x.pth.tar")
    assert (loaded.dim, loaded.training) == (24, False)
    assert state_key(loaded) == state_key(model)
    assert (match.matched, match.unused) == (len(model.state_dict()), ())
    state["other.weight"] = torch.zeros(5, 384)
    torch.save(state, tmp_path / "x.pth.tar")
    with pytest.raises(KitError, match="several heads"):
        load(tmp_path / "x.pth.tar")
    del state["other.weight"], state[f"{wrapper}{head}.bias"]
    torch.save(state, tmp_path / "x.pth.tar")
    with pytest.raises(KitError, match="without a fitting bias"):
        load(tmp_path / "x.pth.tar")


def test_incomplete_and_other_swin_transformers_are_refused(model, tmp_path):
    state = published(model)
    del state["layers.1.blocks.0.mlp.fc1.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(KitError, match=r"1 missing \(layers.1.blocks.0.mlp.fc1.weight\)"):
        load(tmp_path / "x.pth")
    state = {n: v for n, v in published(model).items() if not n.startswith("layers.1.blocks.1")}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(KitError, match=f"another form than {BASE}, {NANO}"):
        load(tmp_path / "x.pth")
    state = published(model)
    state[f"layers.0.blocks.0.{TABLE}"] = torch.zeros(120, 1)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(KitError, match="fits no window"):
        load(tmp_path / "x.pth")


def test_a_cut_table_leaves_every_bias_as_it_was():
    """Biases between tokens of a small map, by nested loops from a large table."""
    network = EsViT(NANO)
    attention = network.layers[3].blocks[0].attn  # window 3, heads 8
    large = torch.randn((2 * 6 - 1) ** 2, 8)
    cut, resized = to_timm({f"layers.3.blocks.0.{TABLE}": large}, network)
    assert resized == [f"layers.3.blocks.0.{TABLE}"]
    attention.relative_position_bias_table.data = cut[resized[0]]
    bias = attention._get_rel_pos_bias()[0].detach()  # (heads, 9, 9)
    for first in range(9):
        for second in range(9):
            dy, dx = first // 3 - second // 3, first % 3 - second % 3
            assert torch.equal(bias[:, first, second], large[(dy + 5) * 11 + dx + 5])


def test_tables_of_smaller_windows_are_interpolated():
    network = EsViT(NANO)
    name = f"layers.0.blocks.0.{TABLE}"  # window 6
    rising = torch.arange(5.0).repeat(5, 1).reshape(25, 1)  # window 3, rising along x
    (table,) = to_timm({name: rising}, network)[0].values()
    square = table.view(11, 11)
    assert torch.allclose(square, square[:1].expand(11, 11), atol=1e-5)
    assert (square[0, 1:-1].diff() > 0).all()
    assert float(square[0, 5]) == pytest.approx(2, abs=1e-4)
    assert SWINS[NANO]["window_size"] == 6
