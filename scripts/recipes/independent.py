"""Multi-Similarity, 512-d, as independent authors train it: the fairer target.

    python scripts/recipes/independent.py cub --data-dir CUB_200_2011

The settings are published for each set. Crops are those of the official code.
None of these recipes was run by this project yet.

Weights of BN-Inception: the public bn_inception-52deb4733.pth, converted once in the folder where
a recipe is run:
    keras-ms convert-weights bn_inception-52deb4733.pth --to bn_inception.weights.h5
"""

import official
from recipe import Recipe, run

PROTOCOL = {
    **official.PROTOCOL,
    **official.BN_INCEPTION,
    "pooling": "avg",
    "classes_per_batch": 24,
    "steps_per_epoch": 500,
}


def _independent(
    dataset: str,
    *,
    recalls: str,
    training_images: int,
    hours: int,
    **published: int | float | tuple[int, ...],
) -> Recipe:
    benchmark = official.BENCHMARKS[dataset]
    return Recipe(
        f"{benchmark.title}, BN-Inception",
        benchmark.data_dir,
        source="the baselines of the SphericalEmbedding code",
        expected=recalls,
        cost=official.bn_inception_cost(training_images, hours),
        settings={**PROTOCOL, "dataset": dataset, "ks": benchmark.ks, **published},
    )


RECIPES = {
    "cub": _independent(
        "cub",
        recalls="66.14 (all K 66.14 77.03 85.43 91.26; the same code)",
        training_images=960_000,
        hours=15,
        steps=8000,
        learning_rate=1e-5,
        backbone_learning_rate=5e-6,
        coupled_l2=2.5e-3,
        decay_steps=(3000, 6000),
    ),
    "cars": _independent(
        "cars",
        recalls="84.07 (all K 84.07 90.23 94.12 96.53; the same code)",
        training_images=960_000,
        hours=15,
        steps=8000,
        learning_rate=2e-5,
        backbone_learning_rate=2e-5,
        coupled_l2=2.5e-3,
        decay_steps=(2000,),
    ),
    "sop": _independent(
        "sop",
        recalls="76.29 (K = 1, 10, 100, 1000: 76.29 89.38 95.58 98.58; the same code)",
        training_images=1_440_000,
        hours=23,
        steps=12000,
        learning_rate=2.5e-4,
        backbone_learning_rate=5e-5,
        coupled_l2=1e-5,
        decay_steps=(6000,),
    ),
    "in_shop": _independent(
        "in_shop",
        recalls="88.11 (K = 1, 10, 20, 30, 40, 50: 88.11 97.55 98.34 98.76 98.94 99.09; the same "
        "code)",
        training_images=1_440_000,
        hours=23,
        steps=12000,
        learning_rate=5e-4,
        backbone_learning_rate=1e-4,
        coupled_l2=1e-5,
        decay_steps=(6000,),
    ),
}

if __name__ == "__main__":
    run(__doc__, RECIPES)
