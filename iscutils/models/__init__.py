"""Descriptor networks: trunks, pooling, heads, and how they lie on disc."""

from iscutils.models.backbones import Backbone
from iscutils.models.descriptor import Descriptor, DescriptorConfig, load, model_key, state_key
from iscutils.models.pooling import GeM

__all__ = ["Backbone", "Descriptor", "DescriptorConfig", "GeM", "load", "model_key", "state_key"]
