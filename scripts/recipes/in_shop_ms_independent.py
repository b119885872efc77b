"""Multi-Similarity on DeepFashion In-Shop, 512-d: an independent recipe.

    python scripts/recipes/in_shop_ms_independent.py --data-dir In-shop

Weights: the public bn_inception-52deb4733.pth, converted once in the folder where it is run:
    keras-ms convert-weights bn_inception-52deb4733.pth --to bn_inception.weights.h5

The fairer target: its settings are published for each set. Crops are those of the official code.

Source: the baselines of the SphericalEmbedding code.
Expected Recall@1: 88.11 (K = 1, 10, 20, 30, 40, 50: 88.11 97.55 98.34 98.76 98.94 99.09;
    the same code).
Cost: 1,440,000 training images, about 23 hours on two processor cores without evaluations
    (113 ms of processor time an image, docs/benchmarks.md).
"""

from recipe import run

SETTINGS = {
    "dataset": "in_shop",
    "backbone": "bn_inception",
    "weights": "bn_inception.weights.h5",
    "image_size": 227,
    "resize_to": 256,
    "augmentation": "crop",
    "crop_scale": 0.16,
    "pooling": "avg",
    "embedding_size": 512,
    "frozen_batch_norm": True,
    "head_initializer": "official",
    "alpha": 2.0,
    "beta": 40.0,
    "threshold": 0.5,
    "epsilon": 0.1,
    "classes_per_batch": 24,
    "images_per_class": 5,
    "steps": 12000,
    "steps_per_epoch": 500,
    "learning_rate": 0.0005,
    "backbone_learning_rate": 0.0001,
    "coupled_l2": 1e-05,
    "schedule": "step",
    "decay_steps": "6000",
    "validation_fraction": 0.0,
    "ks": "1,10,20,30,40,50",
}

if __name__ == "__main__":
    run(SETTINGS)
