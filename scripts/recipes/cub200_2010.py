"""CUB-200, 2010 edition: InceptionV3 up to mixed8, its head alone or the whole network.

    python scripts/recipes/cub200_2010.py head --data-dir cub200_2010

The folder holds a subfolder per class, images cropped to the bird; the first 100 classes train.
Not comparable with CUB-200-2011. Weights: InceptionV3 up to mixed8, trained on ImageNet.
"""

from recipe import Recipe, run

_NETWORK = {
    "dataset": "folder",
    "backbone": "inception_v3",
    "output_layer": "mixed8",
    "weights": "inception_v3_mixed8.weights.h5",
}
_FINETUNED = {
    **_NETWORK,
    "precision": "mixed_bfloat16",
    "crop_scale": 0.3,
    "embedding_size": 512,
    "head_initializer": "orthogonal",
    "classes_per_batch": 16,
    "images_per_class": 5,
    "steps": 250,
    "learning_rate": 1e-4,
    "backbone_learning_rate": 1e-5,
    "schedule": "constant",
    "validation_fraction": 0.0,
}
_NO_BFLOAT16 = "Use --precision float32 on processors that compute no bfloat16"

RECIPES = {
    "head": Recipe(
        "Multi-Similarity, 224 px: a 512-d head on frozen features",
        "cub200_2010",
        source="docs/transfer.md of this project: start, learning rate and alpha by folds",
        expected="61.3 (measured, mean of seeds 0, 1, 2, +- 0.6; features without a head 51.4)",
        cost="48,000 training images, as cached features, 12 times for the folds and once for the "
        "result: 3 processor minutes, and 5 for the features of all images the first time",
        settings={**_NETWORK, "freeze_backbone": True, "image_size": 224, "resize_to": 224},
    ),
    "finetuned": Recipe(
        "Multi-Similarity, 224 px: the whole network fine-tuned",
        "cub200_2010",
        source="docs/results.md of this project",
        expected="65.3 (measured, mean of seeds 0, 1, 2; before training 49.3)",
        cost="20,000 training images, 9 minutes on two processor cores with AMX. " + _NO_BFLOAT16,
        settings={**_FINETUNED, "image_size": 224, "resize_to": 224, "steps_per_epoch": 125},
    ),
    "hierarchical_triplet": Recipe(
        "hierarchical triplet loss, 160 px: the whole network fine-tuned",
        "cub200_2010",
        source="docs/hierarchical_triplet.md of this project",
        expected="55.8 (measured, mean of seeds 0, 1, 2; triplet loss on random classes 56.0)",
        cost="20,000 training images, 11 minutes on one processor core with AMX. " + _NO_BFLOAT16,
        settings={
            **_FINETUNED,
            "image_size": 160,
            "resize_to": 160,
            "steps_per_epoch": 50,
            "loss": "hierarchical_triplet",
            "loss_options": {"beta": -0.1},
            "tree_levels": 64,
            "tree_margins": "first",
            "neighbour_classes": 2,
        },
        note="Batches are eight random classes with the nearest of each; margins stay those of the "
        "first class tree.",
    ),
}

if __name__ == "__main__":
    run(__doc__, RECIPES)
