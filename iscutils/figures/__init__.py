"""Figures of the notebooks, built from the plots of `iscutils.plots`."""

from iscutils.figures.distillation import frontier, frontier_table, views_in_the_plane
from iscutils.figures.merging import matched_parts, norm_ratio_histogram, part_gains
from iscutils.figures.overlays import (
    boxed_pictures,
    crop_pairs,
    detector_training,
    paste_curve,
    point_curves,
    precision_recall_of_boxes,
    read_held_out,
)
from iscutils.figures.parts import image_parts, part_boxes
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
    queue_filling,
    to_image,
    training_curves,
    two_views,
    view_similarities,
)

__all__ = [
    "before_and_after",
    "boxed_pictures",
    "candidate_strips",
    "compare_curves",
    "compare_similarities",
    "crop_pairs",
    "cross_correlation",
    "detector_training",
    "distillation_curves",
    "eigenvalues",
    "frontier",
    "frontier_table",
    "image_parts",
    "matched_parts",
    "norm_ratio_histogram",
    "part_boxes",
    "part_gains",
    "paste_curve",
    "photo_similarities",
    "point_curves",
    "precision_recall_of_boxes",
    "probe_strips",
    "queue_filling",
    "read_held_out",
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
