"""Hierarchical triplet loss on CUB-200, 2010 edition, 160 px: InceptionV3 fine-tuned.

    python scripts/recipes/cub200_2010_hierarchical_triplet.py --data-dir cub200_2010

The folder holds a subfolder per class, images cropped to the bird; the first 100 classes train.
Not comparable with CUB-200-2011. Weights: InceptionV3 up to mixed8, trained on ImageNet. Batches
are eight random classes with the nearest of each; margins stay those of the first class tree.

Source: docs/hierarchical_triplet.md of this project.
Expected Recall@1: 55.8 (measured, mean of seeds 0, 1, 2; triplet loss on random classes 56.0).
Cost: 20,000 training images, 11 minutes on one processor core with AMX. Use --precision float32 on
    processors that compute no bfloat16.
"""

from recipe import run

SETTINGS = {
    "dataset": "folder",
    "backbone": "inception_v3",
    "output_layer": "mixed8",
    "weights": "inception_v3_mixed8.weights.h5",
    "image_size": 160,
    "resize_to": 160,
    "precision": "mixed_bfloat16",
    "crop_scale": 0.3,
    "embedding_size": 512,
    "head_initializer": "orthogonal",
    "loss": "hierarchical_triplet",
    "loss_settings": "beta=-0.1",
    "tree_levels": 64,
    "tree_margins": "first",
    "neighbour_classes": 2,
    "classes_per_batch": 16,
    "images_per_class": 5,
    "steps": 250,
    "steps_per_epoch": 50,
    "learning_rate": 0.0001,
    "backbone_learning_rate": 1e-05,
    "schedule": "constant",
    "validation_fraction": 0.0,
}

if __name__ == "__main__":
    run(SETTINGS)
