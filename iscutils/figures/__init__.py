"""Figures of the notebooks, built from the plots of `iscutils.plots`."""

from iscutils.figures.distillation import frontier, frontier_table, views_in_the_plane
from iscutils.figures.search import (
    before_and_after,
    candidate_strips,
    compare_curves,
    eigenvalues,
    similarity_histograms,
    thumbnail,
    uap_by_loop,
    unrelated_similarities,
)
from iscutils.figures.training import (
    compare_similarities,
    cross_correlation,
    distillation_curves,
    photo_similarities,
    probe_strips,
    to_image,
    training_curves,
    two_views,
    view_similarities,
)

__all__ = [
    "before_and_after",
    "candidate_strips",
    "compare_curves",
    "compare_similarities",
    "cross_correlation",
    "distillation_curves",
    "eigenvalues",
    "frontier",
    "frontier_table",
    "photo_similarities",
    "probe_strips",
    "similarity_histograms",
    "thumbnail",
    "to_image",
    "training_curves",
    "two_views",
    "uap_by_loop",
    "unrelated_similarities",
    "view_similarities",
    "views_in_the_plane",
]
