"""Hierarchical triplet loss on Omniglot, other alphabets for testing: a short training.

    python scripts/recipes/omniglot_hierarchical_triplet.py --data-dir omniglot

The folder holds the archives omniglot_images_background.zip and omniglot_images_evaluation.zip.
Batches are four random classes with their three nearest each; margins stay those of the class tree
of the untrained network.

Source: docs/hierarchical_triplet.md of this project.
Expected Recall@1: 85.3 (measured, mean of seeds 0, 1, 2; triplet loss on random classes 81.2).
Cost: 48,000 training images, 3 minutes on one processor core with AMX. Use --precision float32 on
    processors that compute no bfloat16.
"""

from recipe import run

SETTINGS = {
    "dataset": "omniglot",
    "image_size": 35,
    "framed_drawings": True,
    "precision": "mixed_bfloat16",
    "loss": "hierarchical_triplet",
    "loss_settings": "beta=0.1",
    "tree_levels": 64,
    "tree_margins": "first",
    "neighbour_classes": 4,
    "classes_per_batch": 16,
    "images_per_class": 5,
    "steps": 600,
    "steps_per_epoch": 100,
    "validation_fraction": 0.0,
}

if __name__ == "__main__":
    run(SETTINGS)
