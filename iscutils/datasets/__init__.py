"""Image sets and benchmarks: folders on disc, and builtin images that need no download."""

from iscutils.datasets.benchmark import (
    Benchmark,
    benchmark_file,
    check_data,
    data_paths,
    is_benchmark,
    is_isc_layout,
    open_benchmark,
    open_images,
)
from iscutils.datasets.builtin import builtin_images

__all__ = [
    "Benchmark",
    "benchmark_file",
    "builtin_images",
    "check_data",
    "data_paths",
    "is_benchmark",
    "is_isc_layout",
    "open_benchmark",
    "open_images",
]
