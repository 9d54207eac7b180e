"""EsViT's Swin transformers, whose features are token averages of their last blocks.

Sources: Li et al., "Efficient Self-supervised Vision Transformers for Representation Learning",
ICLR 2022 (arXiv 2106.09785), and imgFp's released code (arXiv 2112.02373), which uses Swin-B.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from torch.nn import functional as F

from iscutils.files.artifacts import KitError

LAST = 4  # blocks whose tokens are averaged
TABLE = "attn.relative_position_bias_table"
_BUFFERS = ("relative_position_index", "attn_mask")  # computed, not learnt

# Name -> what timm's class needs. A window is the whole map where the map is smaller. The nano one
# has the same form (two stages of several windows, two of one) for tests and lessons.
SWINS: dict[str, dict[str, Any]] = {
    "esvit_swin_base_w14": {
        "img_size": 224,
        "window_size": 14,
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
    },
    "esvit_swin_nano": {
        "img_size": 96,
        "window_size": 6,
        "embed_dim": 16,
        "depths": (2, 2, 2, 2),
        "num_heads": (1, 2, 4, 8),
    },
}


class EsViT(SwinTransformer):
    """Images (B, 3, H, W) -> averages of the tokens of the last four blocks, (B, F) float32.

    Those of the last stage are averaged after the final norm. Swin-B: 512, 512, 1024 and 1024
    values, F = 3072. Sides are multiples of 4 pixels; at other sizes than the network's own,
    windows are filled up with zeros.

    Args:
        name: one of `SWINS`.
    """

    def __init__(self, name: str):
        settings = SWINS[name]
        super().__init__(
            patch_size=4,
            num_classes=0,
            global_pool="",
            drop_path_rate=0.0,
            strict_img_size=False,
            **settings,
        )
        widths = [
            self.embed_dim << stage for stage, n in enumerate(settings["depths"]) for _ in range(n)
        ]
        self.features = sum(widths[-LAST:])
        self.first = len(widths) - LAST  # the first of the blocks that count

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x, place, averages = self.patch_embed(images), 0, []  # x: (B, H/4, W/4, C)
        for stage in self.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = block(x)
                if place >= self.first:
                    tokens = self.norm(x) if stage is self.layers[-1] else x
                    averages.append(tokens.float().mean(dim=(1, 2)))
                place += 1
        return torch.cat(averages, dim=1)


def swin_name(state: Mapping[str, torch.Tensor]) -> str:
    """Backbone to which weights of a Swin transformer belong; "" for none of `SWINS`."""
    width = len(state["patch_embed.proj.weight"]) if "patch_embed.proj.weight" in state else 0
    counted = [
        len({name.split(".")[3] for name in state if name.startswith(f"layers.{stage}.blocks.")})
        for stage in range(4)
    ]
    for name, settings in SWINS.items():
        if (width, counted) == (settings["embed_dim"], list(settings["depths"])):
            return name
    return ""


def to_timm(
    state: Mapping[str, torch.Tensor], network: EsViT
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights of a Swin transformer under timm's names, with tables as large as the network's.

    The original code merges patches at the end of a stage, timm at the start of the next one. A
    table of relative positions for a larger window is cut to the distances that still occur, which
    changes no attention; one for a smaller window is interpolated. Published EsViT files were not
    at hand: that their names are those of Microsoft's Swin code, and the sizes of the tables in
    their last stage, are unverified.

    Returns:
        The weights, and the names of the tables whose size was changed.
    """
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    late = "layers.0.downsample.reduction.weight" in state
    renamed, resized = {}, []
    for name, value in state.items():
        if name.endswith(_BUFFERS):
            continue
        if late:
            name = re.sub(r"^layers\.(\d)\.downsample", _next_stage, name)
        if name.endswith(TABLE) and name in shapes and value.shape != shapes[name]:
            value = _resized(value, shapes[name], name)
            resized.append(name)
        renamed[name] = value
    return renamed, resized


def _next_stage(match: re.Match) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _resized(table: torch.Tensor, shape: torch.Size, name: str) -> torch.Tensor:
    """A table (rows x columns, heads) of relative positions for another window."""
    old, new = (round(rows**0.5) for rows in (table.shape[0], shape[0]))  # 2 window - 1
    if table.shape[1:] != shape[1:] or old**2 != len(table):
        raise KitError(
            f"{name} has shape {tuple(table.shape)}, which fits no window of {shape[1]} heads: "
            "choose the weights of another network"
        )
    square = table.view(old, old, -1)
    if old < new:  # as the original code does for finetuning with larger windows
        planes = square.permute(2, 0, 1)[None].float()  # (1, heads, old, old)
        square = F.interpolate(planes, (new, new), mode="bicubic")[0].permute(1, 2, 0)
    else:
        cut = slice((old - new) // 2, (old + new) // 2)
        square = square[cut, cut]
    return square.reshape(shape)
