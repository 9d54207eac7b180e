"""Published weight files: layouts, strictness, TorchScript, and downloading them by name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

from iscutils.files.artifacts import KitError, file_hash
from iscutils.models import (
    KNOWN,
    Descriptor,
    DescriptorConfig,
    TorchScriptDescriptor,
    cache_folder,
    fetch,
    load,
    model_key,
    state_key,
)
from iscutils.models import download as downloads
from iscutils.models.official import from_classy

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
NETWORKS = {
    "resnet50": ((3, 4, 6, 3), 1, 64, 512, 320, "torchvision:resnet50"),
    "32x4d": ((3, 4, 23, 3), 32, 4, 1024, 626, "torchvision:resnext101_32x4d"),
}


def sscd_network(blocks, groups, width, dim) -> ResNet:
    """A random trunk with head whose batch norms differ from each other."""
    torch.manual_seed(0)
    network = ResNet(
        Bottleneck, list(blocks), groups=groups, width_per_group=width, num_classes=dim
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.2, 0.6)
            nn.init.normal_(layer.bias, std=0.1)
    return network.eval()


def classy_name(name: str) -> str:
    """torchvision's name of an SSCD weight in the classy layout, by position in the network."""
    first, *rest = name.split(".")
    if first == "fc":
        return f"embeddings.1.{rest[-1]}"
    if first in ("conv1", "bn1"):
        return f"backbone.initial_block._module.{int(first == 'bn1')}.{rest[-1]}"
    stage, (block, part, *tail) = int(first[-1]) - 1, rest
    places = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6}
    if part in places:
        part = f"convolutional_block.{places[part]}"
    elif part == "bn3":
        part = "bn"
    return ".".join(["backbone.blocks", str(stage), f"block{stage}-{block}", part, *tail])


@pytest.fixture(scope="module", params=list(NETWORKS))
def sscd(request, tmp_path_factory):
    """A random SSCD network and its files in both layouts."""
    blocks, groups, width, dim, entries, backbone = NETWORKS[request.param]
    network = sscd_network(blocks, groups, width, dim)
    state, folder = network.state_dict(), tmp_path_factory.mktemp("sscd")
    files = {"torchvision": {f"backbone.{name}": value for name, value in state.items()},
             "classy": {classy_name(name): value for name, value in state.items()}}  # fmt: skip
    for layout, content in files.items():
        assert len(content) == entries
        torch.save(content, folder / f"{layout}.pt")
    return network, folder, backbone, dim


def sscd_rows(network: ResNet, images: torch.Tensor) -> torch.Tensor:
    """SSCD written out with torchvision's own network: trunk, GeM 3, linear layer, L2."""
    x = network.maxpool(network.relu(network.bn1(network.conv1((images - MEAN) / STD))))
    x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    pooled = x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    return F.normalize(network.fc(pooled), dim=1)


@torch.inference_mode()
def test_both_layouts_of_sscd_give_the_network_they_were_written_from(sscd):
    network, folder, backbone, dim = sscd
    images = torch.rand(7, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = sscd_rows(network, images)
    models = [load(folder / f"{layout}.pt") for layout in ("torchvision", "classy")]
    for model in models:
        assert model.config.backbone == backbone
        assert (model.dim, model.size, model.config.resize) == (dim, 288, "short")
        assert not model.training
        rows = model(images)
        assert rows.shape == (7, dim)
        assert torch.allclose(rows.norm(dim=1), torch.ones(7), atol=1e-5)
        assert torch.allclose(rows, expected, atol=1e-6)
        assert torch.allclose(model(images[:1]), expected[:1], atol=1e-5)
    assert state_key(models[0]) == state_key(models[1])
    assert len(model_key(folder / "classy.pt")) == 10


def test_classy_names_as_published():
    pairs = {
        "backbone.initial_block._module.0.weight": "backbone.conv1.weight",
        "backbone.initial_block._module.1.running_var": "backbone.bn1.running_var",
        "backbone.blocks.0.block0-2.convolutional_block.0.weight": "backbone.layer1.2.conv1.weight",
        "backbone.blocks.2.block2-22.convolutional_block.4.bias": "backbone.layer3.22.bn2.bias",
        "backbone.blocks.2.block2-10.convolutional_block.6.weight": (
            "backbone.layer3.10.conv3.weight"
        ),
        "backbone.blocks.3.block3-0.bn.num_batches_tracked": (
            "backbone.layer4.0.bn3.num_batches_tracked"
        ),
        "backbone.blocks.1.block1-0.downsample.0.weight": "backbone.layer2.0.downsample.0.weight",
        "embeddings.1.bias": "backbone.fc.bias",
    }
    assert list(from_classy(dict.fromkeys(pairs, 0))) == list(pairs.values())


def test_what_does_not_fit_is_listed(tmp_path):
    network = sscd_network((3, 4, 6, 3), 1, 64, 8)
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    del state["backbone.layer1.0.conv1.weight"]
    state["backbone.extra"] = torch.zeros(1)
    state["backbone.bn1.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(KitError) as error:
        load(tmp_path / "broken.pt")
    for part in ("1 missing (backbone.layer1.0.conv1.weight)", "1 unexpected (backbone.extra)",
                 "1 of another shape (backbone.bn1.bias (3,) instead of (64,))"):  # fmt: skip
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.weight": torch.zeros(1), "b": torch.zeros(1)}, "no known layout.*a.weight, b"),
        ({"state_dict": {"a": torch.zeros(1)}}, "no flat dictionary"),
        ({"patch_embed.proj.weight": torch.zeros(384, 3, 16, 16)}, "no DINO ViT-B"),
        ({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}, r"0 blocks.*no head"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(KitError, match=message) as error:
        load(tmp_path / "x.pt")
    assert "x.pt" in str(error.value)


def test_pickled_objects_and_nonsense_are_refused(tmp_path):
    torch.save({"a": Descriptor}, tmp_path / "object.pt")
    (tmp_path / "text.pt").write_text("not found")
    for name in ("object.pt", "text.pt"):
        with pytest.raises(KitError, match=rf"{name} is no file of weights"):
            load(tmp_path / name)


def dino_state(patch: int) -> dict[str, torch.Tensor]:
    """Random weights under DINO's 150 names, built from the shapes of ViT-B."""
    shapes = {"cls_token": (1, 1, 768), "pos_embed": (1, 1 + (224 // patch) ** 2, 768),
              "patch_embed.proj.weight": (768, 3, patch, patch),
              "patch_embed.proj.bias": (768,)}  # fmt: skip
    layers = {"norm1": (768,), "attn.qkv": (2304, 768), "attn.proj": (768, 768), "norm2": (768,),
              "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}  # fmt: skip
    for block in range(12):
        for layer, shape in layers.items():
            shapes[f"blocks.{block}.{layer}.weight"] = shape
            shapes[f"blocks.{block}.{layer}.bias"] = shape[:1]
    shapes |= {"norm.weight": (768,), "norm.bias": (768,)}
    generator = torch.Generator().manual_seed(patch)
    state = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    for name in state:
        if "norm" in name and name.endswith("weight"):
            state[name] += 1
    return state


@pytest.mark.parametrize("patch", [16, 8])
@torch.inference_mode()
def test_dino_files_load_strictly_and_pool_any_number_of_tokens(tmp_path, patch):
    state = dino_state(patch)
    assert len(state) == 150
    torch.save(state, tmp_path / "dino.pth")
    model = load(tmp_path / "dino.pth")
    assert model.config.backbone == f"vit_base_patch{patch}_224.dino"
    assert (model.dim, model.size, model.config.gem) == (1536, 224, 4.0)
    # Written out: class token, then the generalised mean of the patch tokens.
    side = 224 if patch == 16 else 64  # ViT-B/8 sees 785 tokens at 224: seconds an image
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    plain = timm.create_model(f"vit_base_patch{patch}_224", num_classes=0, img_size=side)
    if side != 224:
        plain.pos_embed.data = model.backbone.net.pos_embed.data[:, : 1 + (side // patch) ** 2]
        model.backbone.net.pos_embed.data[:, 1:] = 0  # so that resampling has nothing to change
        plain.pos_embed.data[:, 1:] = 0
        state = {name: value for name, value in state.items() if name != "pos_embed"}
    plain.load_state_dict(state, strict=side == 224)
    tokens = plain.eval().forward_features((images - MEAN) / STD)[0]  # (1 + T, 768)
    assert len(tokens) == 1 + (side // patch) ** 2
    pooled = tokens[1:].clamp(min=1e-6).pow(4).mean(0).pow(0.25)
    expected = F.normalize(torch.cat([tokens[0], pooled]), dim=0)
    assert torch.allclose(model(images)[0], expected, atol=1e-5)
    for shape in ((7, 3, 64, 32), (1, 3, 32, 48)):
        rows = model(torch.rand(shape))
        assert rows.shape == (shape[0], 1536)
        assert torch.allclose(rows.norm(dim=1), torch.ones(shape[0]), atol=1e-5)
    with pytest.raises(KitError, match=f"multiples of {patch}"):
        model(torch.rand(1, 3, 65, 64))
    if patch == 8:
        del state["norm.bias"]
        torch.save(state, tmp_path / "dino.pth")
        with pytest.raises(KitError, match=r"missing \(pos_embed, norm.bias\)"):
            load(tmp_path / "dino.pth")


class Published(nn.Module):
    """As SSCD's TorchScript files: normalised images in, unit rows out."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 12, 5, stride=4)

    def forward(self, images):
        return F.normalize(self.convolution(images).relu().mean((2, 3)), dim=1)


@pytest.mark.filterwarnings("ignore:.*.*torch.jit.*deprecated")
def test_torchscript_files_take_images_and_are_for_inference_alone(tmp_path):
    network = Published()
    torch.jit.script(network).save(tmp_path / "sscd_disc_mixup.torchscript.pt")
    model = load(tmp_path / "sscd_disc_mixup.torchscript.pt")
    assert isinstance(model, TorchScriptDescriptor)
    assert (model.dim, model.size, model.config.resize) == (12, 288, "short")
    images = torch.rand(3, 3, 64, 48)
    rows = model.train()(images)
    assert not model.training
    assert not rows.requires_grad
    assert torch.allclose(rows, network((images - MEAN) / STD), atol=1e-6)
    with pytest.raises(KitError, match="inference alone"):
        model.pooled(images)
    with pytest.raises(KitError, match="inference alone"):
        Descriptor(DescriptorConfig(backbone="mobilenetv3_small_050")).start_from(
            tmp_path / "sscd_disc_mixup.torchscript.pt"
        )


@pytest.mark.filterwarnings("ignore:.*.*torch.jit.*deprecated")
def test_other_torchscript_files_are_refused(tmp_path):
    torch.jit.script(nn.Conv2d(3, 4, 3)).save(tmp_path / "map.torchscript.pt")
    torch.jit.script(nn.Linear(3, 4)).save(tmp_path / "linear.torchscript.pt")
    with pytest.raises(KitError, match="not one row"):
        load(tmp_path / "map.torchscript.pt")
    with pytest.raises(KitError, match="no TorchScript descriptor"):
        load(tmp_path / "linear.torchscript.pt")


def test_start_from_official_weights(tmp_path):
    network = sscd_network((3, 4, 6, 3), 1, 64, 8)
    torch.save({f"backbone.{k}": v for k, v in network.state_dict().items()}, tmp_path / "x.pt")
    other = DescriptorConfig(backbone="torchvision:resnet50", dim=16)
    started = Descriptor(other).start_from(tmp_path / "x.pt")
    assert torch.equal(started.backbone.net.conv1.weight, network.conv1.weight)
    again = load(load(tmp_path / "x.pt").save(tmp_path / "folder"))
    assert torch.equal(again.head.weight, network.fc.weight)


# Downloads, from a server of this test.


class Server(ThreadingHTTPServer):
    """Serves `content` under any path, with ranges; can cut answers off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.cut, self.requests = b"", '"1"', None, []
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pt"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, content = self.server, self.server.content
        asked = self.headers.get("Range")
        server.requests.append(asked)
        start = 0
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        if asked and self.headers.get("If-Range") in (None, server.tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(content[start : server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("ISCUTILS_CACHE", str(tmp_path / "cache"))
    with Server() as server:
        server.content = torch.randint(0, 256, (300_000,), dtype=torch.uint8).numpy().tobytes()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def named(server, monkeypatch):
    """The server's file as the published weights `tiny`."""
    monkeypatch.setitem(KNOWN, "tiny", downloads.Weights(server.url, "torchvision", "MIT"))
    return "tiny"


def test_a_name_is_downloaded_once_and_checked_ever_after(server, named):
    path = fetch(named)
    assert path == cache_folder() / "weights.pt"
    assert path.read_bytes() == server.content
    assert (cache_folder() / "weights.pt.sha256").read_text() == f"{file_hash(path)}  weights.pt\n"
    assert fetch(named) == path
    assert server.requests == [None]
    assert sorted(p.name for p in cache_folder().iterdir()) == [
        ".weights.pt.lock", "weights.pt", "weights.pt.sha256"]  # fmt: skip
    path.write_bytes(server.content[:-1] + b"x")
    with pytest.raises(KitError, match="not the file of its first use"):
        fetch(named)
    with pytest.raises(KitError, match="not the file of its first use"):
        load(named)


def test_an_interrupted_download_goes_on_where_it_stopped(server, named):
    server.cut = 100_000
    with pytest.raises(KitError, match=r"stopped after 100,000 of 300,000 bytes"):
        fetch(named)
    assert not (cache_folder() / "weights.pt").exists()
    server.cut = None
    assert fetch(named).read_bytes() == server.content
    assert server.requests == [None, "bytes=100000-"]


@pytest.mark.parametrize("tag", ['"2"', "", 'W/"1"'])
def test_parts_of_two_versions_are_never_joined(server, named, tag):
    if tag != '"2"':
        server.tag = tag  # from the start: nothing says whether the rest belongs to the first part
    server.cut = 100_000
    with pytest.raises(KitError, match="stopped"):
        fetch(named)
    server.content, server.tag, server.cut = server.content[::-1], tag, None
    assert fetch(named).read_bytes() == server.content


def test_a_part_longer_than_the_file_is_dropped(server, named):
    server.cut = 100_000
    with pytest.raises(KitError, match="stopped"):
        fetch(named)
    server.content, server.cut = server.content[:50_000], None
    assert fetch(named).read_bytes() == server.content


def test_offline_says_where_the_file_belongs(server, named, monkeypatch):
    server.shutdown()
    server.socket.close()
    with pytest.raises(KitError) as error:
        load(named)
    for part in (server.url, str(cache_folder() / "weights.pt"), "by hand"):
        assert part in str(error.value)
    # Put there by hand: used, and its checksum noted.
    (cache_folder() / "weights.pt").write_bytes(server.content)
    assert fetch(named).read_bytes() == server.content
    assert (cache_folder() / "weights.pt.sha256").exists()


def test_a_missing_file_on_the_server_is_named(server, monkeypatch):
    gone = downloads.Weights(server.url.replace("/weights", "/gone"), "dino", "MIT")
    monkeypatch.setitem(KNOWN, "gone", gone)
    with pytest.raises(KitError, match=r"gone\.pt \(answer 404"):
        fetch("gone")


def test_a_cache_that_cannot_be_written_is_named(server, named, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ISCUTILS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(KitError, match="ISCUTILS_CACHE"):
        fetch(named)


def test_nothing_is_downloaded_but_by_name(server, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", refuse)
    with pytest.raises(KitError, match=r"no model folder.*sscd_disc_mixup.*dino_vitb8"):
        load(tmp_path / "nothing")
    with pytest.raises(KitError, match="known are"):
        fetch("sscd_disc_typo")
    Descriptor(DescriptorConfig(backbone="mobilenetv3_small_050"))


def test_the_table_of_published_weights():
    sscd = [name for name in KNOWN if name.startswith("sscd") and not name.endswith(".pt")]
    assert len(sscd) == 7
    base = "https://dl.fbaipublicfiles.com/sscd-copy-detection/"
    assert KNOWN["sscd_disc_mixup"].url == f"{base}sscd_disc_mixup.torchvision.pt"
    assert KNOWN["sscd_disc_large"].url == f"{base}sscd_disc_large.classy.pt"
    assert "sscd_disc_large.torchvision.pt" not in KNOWN
    assert KNOWN["sscd_imagenet_blur.torchscript.pt"].layout == "torchscript"
    assert {w.licence for w in KNOWN.values()} == {"MIT", "Apache-2.0"}
    files = OrderedDict((w.file, w) for w in KNOWN.values())
    assert len({w.url for w in KNOWN.values()}) == len(files)
