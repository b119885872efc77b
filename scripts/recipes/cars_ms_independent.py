"""Multi-Similarity on Cars-196, 512-d: an independent recipe.

    python scripts/recipes/cars_ms_independent.py --data-dir cars196

Weights: the public bn_inception-52deb4733.pth, converted once in the folder where it is run:
    keras-ms convert-weights bn_inception-52deb4733.pth --to bn_inception.weights.h5

The fairer target: its settings are published for each set. Crops are those of the official code.

Source: the baselines of the SphericalEmbedding code.
Expected Recall@1: 84.07 (all K 84.07 90.23 94.12 96.53;
    the same code).
Cost: 960,000 training images, about 15 hours on two processor cores without evaluations
    (113 ms of processor time an image, docs/benchmarks.md).
"""

from recipe import run

SETTINGS = {
    "dataset": "cars",
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
    "steps": 8000,
    "steps_per_epoch": 500,
    "learning_rate": 2e-05,
    "backbone_learning_rate": 2e-05,
    "coupled_l2": 0.0025,
    "schedule": "step",
    "decay_steps": "2000",
    "validation_fraction": 0.0,
    "ks": "1,2,4,8,16,32",
}

if __name__ == "__main__":
    run(SETTINGS)
