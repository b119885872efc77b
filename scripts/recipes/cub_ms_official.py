"""Multi-Similarity on CUB-200-2011, 512-d: the official code's recipe.

    python scripts/recipes/cub_ms_official.py --data-dir CUB_200_2011

Weights: the public bn_inception-52deb4733.pth, converted once in the folder where it is run:
    keras-ms convert-weights bn_inception-52deb4733.pth --to bn_inception.weights.h5

Batches, schedule and crops are those of the official configuration.
The published figure is that of the best step on the test classes; here the last step counts.

Source: Wang et al., Multi-Similarity Loss with General Pair Weighting, CVPR 2019, and its official
    code (configuration for CUB-200-2011).
Expected Recall@1: 65.7 (all K 65.7 77.0 86.3 91.2 95.0 97.3; the
    official repository); independently reproduced: 66.14.
Cost: 240,000 training images, about 4 hours on two processor cores without evaluations
    (113 ms of processor time an image, docs/benchmarks.md).
"""

from recipe import run

SETTINGS = {
    "dataset": "cub",
    "backbone": "bn_inception",
    "weights": "bn_inception.weights.h5",
    "image_size": 227,
    "resize_to": 256,
    "augmentation": "crop",
    "crop_scale": 0.16,
    "pooling": "max",
    "embedding_size": 512,
    "frozen_batch_norm": True,
    "head_initializer": "official",
    "alpha": 2.0,
    "beta": 40.0,
    "threshold": 0.5,
    "epsilon": 0.1,
    "classes_per_batch": 16,
    "images_per_class": 5,
    "steps": 3000,
    "steps_per_epoch": 200,
    "learning_rate": 3e-05,
    "backbone_learning_rate": 3e-05,
    "coupled_l2": 0.0005,
    "schedule": "step",
    "decay_steps": "1200,2400",
    "validation_fraction": 0.0,
    "ks": "1,2,4,8,16,32",
}

if __name__ == "__main__":
    run(SETTINGS)
