"""Multi-Similarity on Omniglot: the small network from scratch, tested on other alphabets.

    python scripts/recipes/omniglot.py --data-dir omniglot

The folder holds the archives omniglot_images_background.zip and omniglot_images_evaluation.zip.

Source: docs/results.md of this project.
Expected Recall@1: 88.4 (measured, seed 0; raw pixels 27.7).
Cost: 288,000 training images, 9 minutes on two processor cores.
"""

from recipe import run

SETTINGS = {
    "dataset": "omniglot",
    "image_size": 35,
    "classes_per_batch": 16,
    "images_per_class": 10,
    "steps": 1800,
    "steps_per_epoch": 600,
    "validation_fraction": 0.0,
}

if __name__ == "__main__":
    run(SETTINGS)
