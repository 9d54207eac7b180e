"""Figures of the notebooks, built from the plots of `iscutils.figures.plots`.

A module is imported when one of its figures is asked for: those of training need torch and
Lightning, and opening a report should not wait for them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "distillation": ["frontier", "frontier_table", "views_in_the_plane"],
        "merging": ["matched_parts", "norm_ratio_histogram", "part_gains"],
        "overlays": [
            "boxed_pictures",
            "crop_pairs",
            "detector_training",
            "paste_curve",
            "point_curves",
            "precision_recall_of_boxes",
            "read_held_out",
        ],
        "parts": ["image_parts", "part_boxes"],
        "search": [
            "before_and_after",
            "candidate_strips",
            "compare_curves",
            "eigenvalues",
            "similarity_histograms",
            "thumbnail",
            "uap_by_loop",
            "unrelated_similarities",
        ],
        "training": [
            "compare_similarities",
            "cross_correlation",
            "distillation_curves",
            "photo_similarities",
            "probe_strips",
            "queue_filling",
            "to_image",
            "training_curves",
            "two_views",
            "view_similarities",
        ],
    },
)
