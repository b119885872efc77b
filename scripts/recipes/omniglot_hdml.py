"""Hardness-aware metric learning around the N-pair loss on Omniglot: a short training.

    python scripts/recipes/omniglot_hdml.py --data-dir omniglot

The folder holds the archives omniglot_images_background.zip and omniglot_images_evaluation.zip.

Source: docs/hdml.md of this project.
Expected Recall@1: 79.2 (measured, mean of seeds 0, 1, 2; the N-pair loss alone, one pair of each
    class, 79.7).
Cost: 38,400 training images, 3 minutes on one processor core with AMX. Use --precision float32 on
    processors that compute no bfloat16.
"""

from recipe import run

SETTINGS = {
    "dataset": "omniglot",
    "image_size": 35,
    "framed_drawings": True,
    "precision": "mixed_bfloat16",
    "loss": "n_pair",
    "hdml": "paper",
    "hdml_settings": "alpha=1,beta=1e3",
    "classes_per_batch": 32,
    "images_per_class": 2,
    "steps": 600,
    "steps_per_epoch": 100,
    "validation_fraction": 0.0,
}

if __name__ == "__main__":
    run(SETTINGS)
