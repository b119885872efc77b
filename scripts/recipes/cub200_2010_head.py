"""Multi-Similarity on CUB-200, 2010 edition: a 512-d head on frozen InceptionV3 features.

    python scripts/recipes/cub200_2010_head.py --data-dir cub200_2010

The folder holds a subfolder per class, images cropped to the bird; the first 100 classes train.
Not comparable with CUB-200-2011. Weights: InceptionV3 up to mixed8, trained on ImageNet.

Source: docs/transfer.md of this project: start, learning rate and alpha by folds.
Expected Recall@1: 61.3 (measured, mean of seeds 0, 1, 2, +- 0.6; features without a head 51.4).
Cost: 48,000 training images, as cached features, 12 times for the folds and once for the result:
    3 processor minutes, and 5 for the features of all images the first time.
"""

from recipe import run

SETTINGS = {
    "dataset": "folder",
    "backbone": "inception_v3",
    "output_layer": "mixed8",
    "weights": "inception_v3_mixed8.weights.h5",
    "freeze_backbone": True,
    "image_size": 224,
    "resize_to": 224,
}

if __name__ == "__main__":
    run(SETTINGS)
