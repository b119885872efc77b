"""Compares ways to fine-tune the upper part of a network, on validation classes, from two seeds.

    python scripts/compare_fine_tunings.py --data-dir cars --weights mobilenet_v2.weights.h5

The layers up to `--hold-to` are held and their maps are computed once, of plain images, so that a
way is cheap on a processor; what is behind them is trained, with the head. Each way is a few
settings of `scripts/train.py` on top of the defaults of fine-tuning. All begin at the same weights,
with the same whitened head, and meet the same batches. A fifth of the training classes is held out;
no test class is read. The table has Recall@1 of the held-out classes, of the start, of the last
weights and of those halfway between.

Every finished training is a line of results.jsonl in the folder `--to`, and is not repeated.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from comparison import Results, digest, file_digest

import keras_ms
from keras_ms.data.images import evaluation_batches
from keras_ms.run.model import RunModels, compile_model, run_loss
from keras_ms.run.settings import Settings

_TENTH = {"backbone_learning_rate": 1e-5}  # of the head's rate, the default of unnamed networks
WAYS = {
    "a tenth": _TENTH,
    "one rate": {"backbone_learning_rate": 1e-4},
    "warm-up": {**_TENTH, "warmup_steps": 0.1},  # of the steps
    "weight decay": {**_TENTH, "weight_decay": 0.05},
    "clipping": {**_TENTH, "clip_norm": 1.0},
    "average": {**_TENTH, "ema": 0.95},
    "layer decay": {"layer_decay": 0.75},
}


def main():
    given = parsed()
    images = keras_ms.ImageList.from_folder(given.data_dir).hold_out_validation(0.2)
    lower, upper = divided(given)
    splits = {
        split: (maps_of(lower, images.subset(split), given.image_size), images.subset(split).labels)
        for split in ("train", "validation")
    }
    features = keras_ms.split_embedder(upper)[0].predict(splits["train"][0], verbose=0)
    keras_ms.initialize_head(upper, features, splits["train"][1], start="whitened")
    start, done, runs = upper.get_weights(), Results(given.to, key_of), {}
    what = {
        "data": digest(*splits["train"], *splits["validation"]),  # and what is held, and its size
        **{name: getattr(given, name) for name in ("backbone", "image_size", "steps")},
        "weights": file_digest(given.weights),
    }
    for seed in range(given.seeds):
        for name, values in WAYS.items():

            def run(values=values, seed=seed):
                upper.set_weights(start)
                return trained(settings_of(given, values, seed), upper, splits)

            runs[name, seed] = done.find_or_run({**what, "way": name, "seed": seed}, run)
    print("\n".join(table(runs)))


def key_of(run):
    names = ("data", "backbone", "image_size", "steps", "weights", "way", "seed")
    return [run[name] for name in names]


def parsed():
    parser = argparse.ArgumentParser(
        description="Compares ways to fine-tune, on validation classes."
    )
    parser.add_argument("--data-dir", required=True, help="folder with a folder for each class")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", required=True, help="its .weights.h5 file")
    parser.add_argument("--hold-to", default="block_12_add", help="the last layer that is held")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--to", default="runs/compare_fine_tunings", help="folder of the results")
    return parser.parse_args()


def settings_of(given, values, seed):
    if "warmup_steps" in values:
        values = {"warmup_steps": int(values["warmup_steps"] * given.steps)}
    return Settings.from_values(
        backbone=given.backbone, weights=given.weights, image_size=given.image_size,
        steps=given.steps, steps_per_epoch=given.steps, seed=seed, **values,
    )  # fmt: skip


def divided(given):
    """From images to the maps of the last layer that is held; from these to embeddings."""
    embedder = keras_ms.build_embedder(
        given.backbone, image_size=given.image_size, weights=given.weights, seed=0
    )
    backbone = embedder.get_layer("backbone")
    network = next(layer for layer in backbone.layers if isinstance(layer, keras.Model))
    border = network.get_layer(given.hold_to).output
    images = backbone.get_layer("normalise").output
    lower = keras.Model(backbone.input, keras.Model(network.input, border)(images))
    maps = keras.Input(border.shape[1:])
    outputs = keras.Model(border, network.output, name="backbone")(maps)
    # layers of their own: the embedder's are those of its images
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(outputs)
    outputs = keras.layers.Dense(512, dtype="float32", name="embedding")(pooled)
    outputs = keras.layers.UnitNormalization(dtype="float32", name="l2")(outputs)
    return lower, keras.Model(maps, outputs)


def maps_of(lower, images, image_size):
    batches = evaluation_batches(images, image_size).map(lambda image, label: image)
    return lower.predict(batches, verbose=0)


def trained(settings, upper, splits):
    """Recall@1 of the validation classes: at the start, halfway and at the end."""
    keras.utils.set_random_seed(settings.training.seed)
    features_model, head = keras_ms.split_embedder(upper)
    loss, kernel = run_loss(settings), upper.get_layer("embedding").kernel.numpy()
    models = RunModels(upper, features_model, head, upper, loss, kernel, None)
    compile_model(settings, models)
    recall = keras_ms.RecallAtK(splits["validation"], ks=(1,))
    recall.set_model(upper)
    between = keras_ms.InterpolateWeights(recall, alphas=(0.0, 0.5, 1.0))
    batches = keras_ms.balanced_batches(
        splits["train"], crop_scale=None, flip=False, seed=settings.training.seed
    )
    measuring = keras_ms.WithAveragedWeights([recall]) if settings.training.ema else recall
    upper.fit(
        batches,
        steps_per_epoch=settings.training.steps,
        shuffle=False,
        verbose=0,
        callbacks=[measuring, between],
    )
    by_alpha = {one.alpha: float(one.recalls[1]) for one in between.candidates}
    return {"start": by_alpha[0.0], "halfway": by_alpha[0.5], "last": by_alpha[1.0]}


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
