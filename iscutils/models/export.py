"""Descriptors for use elsewhere."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from iscutils.models.descriptor import Descriptor


@torch.no_grad()
def folded(model: Descriptor) -> Descriptor:
    """A copy in eval mode whose two linear layers are one: W = W2 W1, b = W2 b1 + b2.

    The same descriptors with fewer weights (RDCD's form for inference). The loss on the wide
    features needs the unfolded one.
    """
    result = copy.deepcopy(model).eval()
    if not model.config.hidden:
        return result
    first, last = (layer.double() for layer in result.head)
    head = nn.Linear(first.in_features, last.out_features)
    head.weight.copy_(last.weight @ first.weight)
    head.bias.copy_(last.weight @ first.bias + last.bias)
    result.head = head.to(model.mean.device)
    result.config = replace(model.config, hidden=0)
    return result
