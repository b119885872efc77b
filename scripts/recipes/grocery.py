"""Grocery Store: a 512-d head on the frozen features of InceptionV3 up to mixed8, 224 px.

    python scripts/recipes/grocery.py head --data-dir grocery

The folder holds the data set as its authors ship it. Weights: InceptionV3 up to mixed8, trained on
ImageNet. The curriculum's table comes first, from a network that has not learned the labels
(docs/curriculum.md makes network.keras):

    keras-ms curriculum network.keras --dataset grocery --data-dir grocery \\
        --validation-fraction 0 --to curriculum.csv
"""

from recipe import Recipe, run

_FROZEN_FEATURES = {
    "dataset": "grocery",
    "backbone": "inception_v3",
    "output_layer": "mixed8",
    "weights": "inception_v3_mixed8.weights.h5",
    "freeze_backbone": True,
    "image_size": 224,
    "resize_to": 224,
}

RECIPES = {
    "head": Recipe(
        "Multi-Similarity",
        "grocery",
        source="the settings of cub200_2010.py head, as they are; docs/transfer.md of this project",
        expected="96.1 (measured, mean of seeds 0, 1, 2, +- 0.3; features without a head 93.7)",
        cost="48,000 training images, as cached features, 12 times for the folds and once for the "
        "result: 3 processor minutes, and 4 for the features of all images the first time",
        settings=_FROZEN_FEATURES,
    ),
    "curriculum": Recipe(
        "Multi-Similarity, from clean to noisy images",
        "grocery --curriculum curriculum.csv",
        source="docs/curriculum.md of this project; a head that starts at random, in three stages",
        expected="95.4 (measured, mean of seeds 0, 1, 2; without a curriculum 95.3)",
        cost="168,000 training images, as cached features: 30 seconds on one processor core, after "
        "the features of all images",
        settings={
            **_FROZEN_FEATURES,
            "augmentation": "none",
            "embedding_size": 512,
            "head_initializer": "orthogonal",
            "curriculum": "curriculum.csv",
            "classes_per_batch": 16,
            "images_per_class": 5,
            "steps": 2100,
            "steps_per_epoch": 700,
            "learning_rate": 1e-4,
            "schedule": "constant",
            "validation_fraction": 0.0,
        },
        note="Labels are as they are, so there is little to gain: the recipe shows how. With wrong "
        "labels: scripts/compare_curriculum.py.",
    ),
}

if __name__ == "__main__":
    run(__doc__, RECIPES, default="head")
