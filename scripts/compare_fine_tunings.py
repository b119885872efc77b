"""Compares ways to fine-tune a pretrained network on validation classes, from several seeds.

    python scripts/compare_fine_tunings.py --data-dir cars --weights mobilenet_v2.weights.h5

Each way is a few settings of `scripts/train.py` on top of the defaults of fine-tuning. All begin at
the same weights, with the same whitened head, and meet the same batches. A fifth of the training
classes is held out; no test class is read. The table has Recall@1 of the held-out classes, of the
start, of the last weights and of those halfway between.

Every finished training is a line of the file `--to`, and is not repeated.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_ms
from keras_ms.data.images import evaluation_batches
from keras_ms.evaluation.embed import embed_batches
from keras_ms.run.model import build_models, compile_model, run_loss
from keras_ms.run.settings import Settings

WAYS = {
    "defaults": {},
    "one rate": {"backbone_learning_rate": 1e-4},
    "warm-up": {"warmup_steps": 0.1},  # of the steps
    "weight decay": {"weight_decay": 0.05},
    "clipping": {"clip_norm": 1.0},
    "average": {"ema": 0.95},
    "layer decay 0.9": {"layer_decay": 0.9},
    "layer decay 0.75": {"layer_decay": 0.75},
    "5 blocks held": {"freeze_blocks": 5},
}


def main():
    given = parsed()
    images = keras_ms.ImageList.from_folder(given.data_dir).hold_out_validation(0.2)
    done = results(given.to)
    features = None
    for seed in range(given.seeds):
        for name in given.ways.split(","):
            if (name, seed) in done:
                continue
            settings = settings_of(given, WAYS[name], seed)
            models = build_models(settings, images.labels, loss=run_loss(settings))
            if features is None:
                features = pooled(models.features_model, images.subset("train"), given.image_size)
            recalls = trained(settings, models, images, features)
            line = {"way": name, "seed": seed, **recalls}
            print(line, flush=True)
            with open(given.to, "a") as file:
                file.write(json.dumps(line) + "\n")
    print("\n".join(table(results(given.to))))


def parsed():
    parser = argparse.ArgumentParser(
        description="Compares ways to fine-tune, on validation classes."
    )
    parser.add_argument("--data-dir", required=True, help="folder with a folder for each class")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", required=True, help="its .weights.h5 file")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--classes-per-batch", type=int, default=16)
    parser.add_argument("--images-per-class", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", default=",".join(WAYS), help="which, with commas between them")
    parser.add_argument("--to", type=Path, default=Path("fine_tunings.jsonl"))
    return parser.parse_args()


def settings_of(given, values, seed):
    if "warmup_steps" in values:
        values = {"warmup_steps": int(values["warmup_steps"] * given.steps)}
    return Settings.from_values(
        backbone=given.backbone, weights=given.weights, image_size=given.image_size,
        steps=given.steps, steps_per_epoch=given.steps, seed=seed, embedding_size=512,
        classes_per_batch=given.classes_per_batch, images_per_class=given.images_per_class,
        **values,
    )  # fmt: skip


def pooled(features_model, images, image_size):
    batches = evaluation_batches(images, image_size).map(lambda image, label: image)
    return embed_batches(features_model.predict_on_batch, batches)


def trained(settings, models, images, features):
    """Recall@1 of the validation classes: at the start, halfway and at the end."""
    keras.utils.set_random_seed(settings.training.seed)
    training, image_size = images.subset("train"), settings.images.image_size
    keras_ms.initialize_head(models.embedder, features, training.labels, start="whitened")
    compile_model(settings, models)
    recall = keras_ms.RecallAtK(
        evaluation_batches(images.subset("validation"), image_size), ks=(1,)
    )
    recall.set_model(models.trained)
    between = keras_ms.InterpolateWeights(recall, alphas=(0.0, 0.5, 1.0))
    batches = keras_ms.balanced_batches(
        training, image_size=image_size, seed=settings.training.seed,
        crop_scale=(settings.images.crop_scale, 1.0),
        classes_per_batch=settings.batches.classes_per_batch,
        images_per_class=settings.batches.images_per_class,
    )  # fmt: skip
    measuring = keras_ms.WithAveragedWeights([recall]) if settings.training.ema else recall
    models.trained.fit(
        batches,
        steps_per_epoch=settings.training.steps,
        shuffle=False,
        verbose=0,
        callbacks=[measuring, between],
    )
    by_alpha = {one.alpha: float(one.recalls[1]) for one in between.candidates}
    return {"start": by_alpha[0.0], "halfway": by_alpha[0.5], "last": by_alpha[1.0]}


def results(path):
    """What is in the file, by way and seed."""
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["way"], line["seed"]): line for line in lines}


def table(done):
    seeds = sorted({seed for _, seed in done})
    yield "| | start | halfway | last |"
    yield "|---|---|---|---|"
    for name in WAYS:
        lines = [done[name, seed] for seed in seeds if (name, seed) in done]
        if lines:
            cells = (
                "; ".join(f"{100 * line[place]:.1f}" for line in lines)
                for place in ("start", "halfway", "last")
            )
            yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
