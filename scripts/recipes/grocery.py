"""Multi-Similarity on Grocery Store: a 512-d head on frozen InceptionV3 features.

    python scripts/recipes/grocery.py --data-dir grocery

The folder holds the data set as its authors ship it. Weights: InceptionV3 up to mixed8, trained on
ImageNet.

Source: the settings of cub200_2010_head.py, as they are; docs/transfer.md of this project.
Expected Recall@1: 96.1 (measured, mean of seeds 0, 1, 2, +- 0.3; features without a head 93.7).
Cost: 48,000 training images, as cached features, 12 times for the folds and once for the result:
    3 processor minutes, and 4 for the features of all images the first time.
"""

from recipe import run

SETTINGS = {
    "dataset": "grocery",
    "backbone": "inception_v3",
    "output_layer": "mixed8",
    "weights": "inception_v3_mixed8.weights.h5",
    "freeze_backbone": True,
    "image_size": 224,
    "resize_to": 224,
}

if __name__ == "__main__":
    run(SETTINGS)
