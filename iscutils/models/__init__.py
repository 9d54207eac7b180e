"""Descriptor networks: trunks, pooling, heads, published weights, teachers, and their files."""

from iscutils.models.backbones import Backbone, weights_licence
from iscutils.models.d2lv import Projector, WaveBlock
from iscutils.models.descriptor import (
    STUDENTS,
    Descriptor,
    DescriptorConfig,
    state_key,
    student_config,
)
from iscutils.models.download import KNOWN, cache_folder, fetch
from iscutils.models.export import folded
from iscutils.models.inference import InferenceOnly
from iscutils.models.loading import find_model, load, model_key, quickest
from iscutils.models.official import load_matched
from iscutils.models.onnx_file import OnnxDescriptor
from iscutils.models.pooling import GeM, TokenGeM
from iscutils.models.pretrained import Match
from iscutils.models.shipped import (
    is_shipped,
    pack,
    shipped_background,
    shipped_folder,
    shipped_names,
    shipped_sizes,
)
from iscutils.models.teachers import Ensemble, Teacher, open_teacher
from iscutils.models.torchscript import TorchScriptDescriptor

__all__ = [
    "KNOWN",
    "STUDENTS",
    "Backbone",
    "Descriptor",
    "DescriptorConfig",
    "Ensemble",
    "GeM",
    "InferenceOnly",
    "Match",
    "OnnxDescriptor",
    "Projector",
    "Teacher",
    "TokenGeM",
    "TorchScriptDescriptor",
    "WaveBlock",
    "cache_folder",
    "fetch",
    "find_model",
    "folded",
    "is_shipped",
    "load",
    "load_matched",
    "model_key",
    "open_teacher",
    "pack",
    "quickest",
    "shipped_background",
    "shipped_folder",
    "shipped_names",
    "shipped_sizes",
    "state_key",
    "student_config",
    "weights_licence",
]
