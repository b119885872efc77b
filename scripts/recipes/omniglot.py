"""Omniglot: small residual networks from scratch, tested on other alphabets.

    python scripts/recipes/omniglot.py multi_similarity --data-dir omniglot

The folder holds the archives omniglot_images_background.zip and omniglot_images_evaluation.zip.
Drawings are cut to their ink.
"""

from recipe import Recipe, run

_DRAWINGS = {
    "dataset": "omniglot",
    "image_size": 35,
    "framed_drawings": True,
    "precision": "mixed_bfloat16",
    "validation_fraction": 0.0,
}
_SHORT = {**_DRAWINGS, "steps": 600, "steps_per_epoch": 100}
_NO_BFLOAT16 = "Use --precision float32 on processors that compute no bfloat16"

RECIPES = {
    "multi_similarity": Recipe(
        "Multi-Similarity",
        "omniglot",
        source="docs/results.md of this project",
        expected="91.7 (measured, mean of seeds 0, 1, 2; raw pixels 55.5)",
        cost="576,000 training images, 35 minutes on one processor core with AMX. " + _NO_BFLOAT16,
        settings={
            **_DRAWINGS,
            "rotated_classes": True,
            "backbone": "small_wide",
            "pooling": "avg+max",
            "classes_per_batch": 16,
            "images_per_class": 10,
            "steps": 3600,
            "steps_per_epoch": 1200,
        },
        note="Characters turned by quarters are classes of their own.",
    ),
    "hdml": Recipe(
        "hardness-aware metric learning around the N-pair loss: a short training",
        "omniglot",
        source="docs/hdml.md of this project",
        expected="79.2 (measured, mean of seeds 0, 1, 2; the N-pair loss alone, one pair of each "
        "class, 79.7)",
        cost="38,400 training images, 3 minutes on one processor core with AMX. " + _NO_BFLOAT16,
        settings={
            **_SHORT,
            "loss": "n_pair",
            "hdml": "paper",
            "hdml_options": {"alpha": 1, "beta": 1e3},
            "classes_per_batch": 32,
            "images_per_class": 2,
        },
    ),
    "hierarchical_triplet": Recipe(
        "hierarchical triplet loss: a short training",
        "omniglot",
        source="docs/hierarchical_triplet.md of this project",
        expected="85.3 (measured, mean of seeds 0, 1, 2; triplet loss on random classes 81.2)",
        cost="48,000 training images, 3 minutes on one processor core with AMX. " + _NO_BFLOAT16,
        settings={
            **_SHORT,
            "loss": "hierarchical_triplet",
            "loss_options": {"beta": 0.1},
            "tree_levels": 64,
            "tree_margins": "first",
            "neighbour_classes": 4,
            "classes_per_batch": 16,
            "images_per_class": 5,
        },
        note="Batches are four random classes with their three nearest each; margins stay those of "
        "the class tree of the untrained network.",
    ),
}

if __name__ == "__main__":
    run(__doc__, RECIPES, default="multi_similarity")
