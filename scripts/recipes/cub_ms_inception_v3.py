"""Multi-Similarity on CUB-200-2011, 512-d, InceptionV3: the official recipe on another backbone.

    python scripts/recipes/cub_ms_inception_v3.py --data-dir CUB_200_2011

The ImageNet weights of keras.applications are downloaded at the first run. 299 px is the size
they were trained at; all else is as in cub_ms_official.py.

Source: Wang et al., CVPR 2019, and its official code; the backbone is our change.
Expected Recall@1: none published with this backbone, not measured here; with BN-Inception 65.7 (the
    official repository).
Cost: 240,000 training images, not measured; more hours than the 4 of BN-Inception on two
    processor cores: an image takes more operations.
"""

from recipe import run

SETTINGS = {
    "dataset": "cub",
    "backbone": "inception_v3",
    "weights": "imagenet",
    "image_size": 299,
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
