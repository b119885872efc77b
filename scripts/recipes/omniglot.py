"""Multi-Similarity on Omniglot: a small residual network from scratch, tested on other alphabets.

    python scripts/recipes/omniglot.py --data-dir omniglot

The folder holds the archives omniglot_images_background.zip and omniglot_images_evaluation.zip.
Drawings are cut to their ink; characters turned by quarters are classes of their own.

Source: docs/results.md of this project.
Expected Recall@1: 91.7 (measured, mean of seeds 0, 1, 2; raw pixels 55.5).
Cost: 576,000 training images, 35 minutes on one processor core with AMX. Use --precision float32 on
    processors that compute no bfloat16.
"""

from recipe import run

SETTINGS = {
    "dataset": "omniglot",
    "image_size": 35,
    "framed_drawings": True,
    "rotated_classes": True,
    "backbone": "small_wide",
    "pooling": "avg+max",
    "precision": "mixed_bfloat16",
    "classes_per_batch": 16,
    "images_per_class": 10,
    "steps": 3600,
    "steps_per_epoch": 1200,
    "validation_fraction": 0.0,
}

if __name__ == "__main__":
    run(SETTINGS)
