"""Descriptor networks: trunks, pooling, heads, published weights, teachers, and their files."""

from iscutils.models.backbones import Backbone, weights_licence
from iscutils.models.descriptor import (
    STUDENTS,
    Descriptor,
    DescriptorConfig,
    state_key,
    student_config,
)
from iscutils.models.download import KNOWN, cache_folder, fetch
from iscutils.models.export import TorchScriptDescriptor, export_torchscript, folded
from iscutils.models.loading import load, model_key
from iscutils.models.pooling import GeM, TokenGeM
from iscutils.models.teachers import Ensemble, Teacher, open_teacher

__all__ = [
    "KNOWN",
    "STUDENTS",
    "Backbone",
    "Descriptor",
    "DescriptorConfig",
    "Ensemble",
    "GeM",
    "Teacher",
    "TokenGeM",
    "TorchScriptDescriptor",
    "cache_folder",
    "export_torchscript",
    "fetch",
    "folded",
    "load",
    "model_key",
    "open_teacher",
    "state_key",
    "student_config",
    "weights_licence",
]
