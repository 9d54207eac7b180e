"""Released checkpoints of kd_icd and RDCD, and EfficientNet-Lite0: official names and shapes."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from iscutils.files.artifacts import KitError
from iscutils.models import Descriptor, DescriptorConfig, load, load_matched

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class GeM(nn.Module):
    def forward(self, maps):
        return maps.clamp(min=1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3)


def pooled_torchvision(name, *layers):
    """A torchvision network as the authors build it: GeM in place of the pooling, a new head."""
    network = torchvision.models.get_model(name)
    network.avgpool = GeM()
    head = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    setattr(network, "fc" if hasattr(network, "fc") else "classifier", head)
    return network


class Headed(nn.Module):
    """A timm network whose head pools by GeM."""

    def __init__(self, name, channels):
        super().__init__()
        network = timm.create_model(name, num_classes=0, global_pool="")
        for child, module in network.named_children():
            if child != "head":
                setattr(self, child, module)
        self.network = [network]
        self.head = nn.Module()
        self.head.fc = nn.Linear(channels, 512)

    def forward(self, images):
        maps = self.network[0].eval()(images)
        return self.head.fc(GeM()(maps).flatten(1))


BUILD = {
    "resnet18": lambda: pooled_torchvision("resnet18", nn.Linear(512, 512)),
    "efficientnet_b0": lambda: pooled_torchvision(
        "efficientnet_b0", nn.Dropout(0.2), nn.Linear(1280, 512)
    ),
    "mobilenet_v3_large": lambda: pooled_torchvision(
        "mobilenet_v3_large", nn.Linear(960, 1280), nn.Hardswish(), nn.Dropout(0.2),
        nn.Linear(1280, 512),
    ),
    "regnet_y_800mf": lambda: pooled_torchvision("regnet_y_800mf", nn.Linear(784, 512)),
    "mobilevit_s": lambda: Headed("mobilevit_s", 640),
    "fastvit_t12": lambda: Headed("fastvit_t12", 1024),
}  # fmt: skip
PUBLISHED = {  # last layers of the released files
    "resnet18": {"fc.weight": (512, 512)},
    "efficientnet_b0": {"classifier.1.weight": (512, 1280)},
    "mobilenet_v3_large": {"classifier.0.weight": (1280, 960), "classifier.3.weight": (512, 1280)},
    "regnet_y_800mf": {"fc.weight": (512, 784)},
    "mobilevit_s": {"head.fc.weight": (512, 640)},
    "fastvit_t12": {"head.fc.weight": (512, 1024)},
}


def lively(network):
    """In eval mode, with batch norms that fit its layers: else deep maps would be zeros."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        getattr(network, "network", [network])[0].train()(torch.rand(6, 3, 96, 96))
    return network.eval()


def named(network, prefix):
    return {f"{prefix}backbone.{name}": value for name, value in network.state_dict().items()}


def write(path, state):
    """As Lightning does."""
    torch.save({"epoch": 99, "global_step": 390600, "state_dict": state, "callbacks": {}}, path)
    return path


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in BUILD if name != "fastvit_t12"])
def test_students_of_kd_icd(name, tmp_path):
    torch.manual_seed(0)
    network = lively(BUILD[name]())
    state = named(network, "model.")
    for layer, shape in PUBLISHED[name].items():
        assert tuple(state[f"model.backbone.{layer}"].shape) == shape
    extra = {"queue": torch.rand(512, 8), "queue_ptr": torch.zeros(1),
             "teacher.backbone.conv1.weight": torch.rand(64, 3, 7, 7)}  # fmt: skip
    if name == "regnet_y_800mf":
        extra |= {"model.embeddings.0.weight": torch.rand(512, 784),
                  "model.embeddings.0.bias": torch.rand(512)}  # fmt: skip
    model, match = load_matched(write(tmp_path / "last.ckpt", state | extra))
    assert (match.matched, set(match.unused)) == (
        len(state), {n.removeprefix("model.") if "embeddings" in n else n for n in extra}
    )  # fmt: skip
    assert (model.dim, model.size, model.config.resize) == (512, 288, "squash")
    images = torch.rand(2, 3, 96, 96)
    expected = F.normalize(network((images - MEAN) / STD).flatten(1), dim=1)
    assert expected[0] @ expected[1] < 0.99999
    assert torch.allclose(model(images), expected, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "dim", "projector"),
    [("efficientnet_b0", 64, "projector"), ("fastvit_t12", 256, "projector.0")],
)
def test_students_of_rdcd(name, dim, projector, tmp_path):
    torch.manual_seed(0)
    network, compact = lively(BUILD[name]()), nn.Linear(512, dim)
    state = named(network, "model.encoder_q.")
    state |= {f"model.encoder_q.{projector}.{n}": v for n, v in compact.state_dict().items()}
    extra = named(BUILD[name](), "model.encoder_k.")
    extra |= {"model.queue": torch.rand(8, 8), "model.queue_ptr": torch.zeros(1),
              "teacher.embeddings.1.weight": torch.rand(512, 2048)}  # fmt: skip
    file = write(tmp_path / "epoch=99-step=390599.ckpt", state | extra)
    model, match = load_matched(file)
    assert (match.matched, set(match.unused)) == (len(state), set(extra))
    assert (model.dim, model.config.hidden, model.size) == (dim, 512, 288)
    images = torch.rand(2, 3, 96, 96)
    wide = network((images - MEAN) / STD).flatten(1)
    assert torch.allclose(model(images), F.normalize(compact(wide), dim=1), atol=1e-5)
    shape = DescriptorConfig(model.config.backbone, dim=32, hidden=512, size=96)
    started = Descriptor(shape).start_from(file)
    assert torch.equal(started.eval().backbone(images), model.backbone(images))


def test_a_student_is_strict_in_what_is_its_own(tmp_path):
    state = named(BUILD["resnet18"](), "model.")
    gone = state.pop("model.backbone.layer3.1.conv2.weight")
    with pytest.raises(KitError, match=r"1 missing \(backbone\.layer3\.1\.conv2\.weight\)"):
        load(write(tmp_path / "x.ckpt", state))
    state["model.backbone.layer3.1.conv2.weight"] = gone[:5]
    state["model.backbone.more"] = gone
    with pytest.raises(KitError, match=r"1 unexpected .*1 of another shape"):
        load(write(tmp_path / "x.ckpt", state))


def lite_names(state):
    """timm's names as the port of EfficientNet-Lite has them."""
    old, block, last = {}, -1, ""
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            if last != parts[1:3]:
                block, last = block + 1, parts[1:3]
            first = block == 0
            inner = {"conv_pw": "_expand_conv" if not first else "_project_conv",
                     "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv",
                     "bn1": "_bn1" if first else "_bn0", "bn2": "_bn2" if first else "_bn1",
                     "bn3": "_bn2"}[parts[3]]  # fmt: skip
            new = f"_blocks.{block}.{inner}.{parts[-1]}"
        else:
            outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head",
                     "bn2": "_bn1", "classifier": "_fc"}[parts[0]]  # fmt: skip
            new = f"{outer}.{parts[-1]}"
        old[new] = value
    return old


@torch.inference_mode()
def test_efficientnet_lite_is_a_start_for_pixels_normalised_otherwise(tmp_path):
    torch.manual_seed(0)
    network = lively(timm.create_model("tf_efficientnet_lite0"))
    state = lite_names(network.state_dict())
    assert len(state) == 296
    assert {"_blocks.0._project_conv.weight", "_blocks.15._bn2.running_var"} <= set(state)
    torch.save(state, tmp_path / "efficientnet-lite0-57934424.pth")
    model, match = load_matched(tmp_path / "efficientnet-lite0-57934424.pth")
    assert (match.matched, match.unused) == (294, ("_fc.weight", "_fc.bias"))
    assert (model.config.backbone, model.dim) == ("tf_efficientnet_lite0", 1280)
    images = torch.rand(2, 3, 64, 64)
    expected = network.bn1(network.conv_stem((images - 0.5) / 0.5))
    net = model.backbone.net
    found = net.bn1(net.conv_stem((images - MEAN) / STD))
    inner = (..., slice(1, -1), slice(1, -1))  # at the border zeros stand for another colour
    assert torch.allclose(found[inner], expected[inner], atol=1e-4)
    shape = DescriptorConfig("tf_efficientnet_lite0", dim=16, size=64)
    started = Descriptor(shape).start_from(tmp_path / "efficientnet-lite0-57934424.pth")
    assert torch.equal(started.backbone.net.conv_stem.weight, net.conv_stem.weight)
    del state["_fc.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(KitError, match="295 tensors, not the 296"):
        load(tmp_path / "x.pth")
