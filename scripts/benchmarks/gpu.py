"""What a GPU does with it, on Keras's JAX backend: loss, Recall@K, training steps, a fine-tuning.

    python scripts/benchmarks/gpu.py --photos PHOTOS --weights WEIGHTS.h5

Needs jax, keras, numpy, h5py and pillow; TensorFlow need not be installed. PHOTOS is a folder with
a subfolder of photos for each class, WEIGHTS a .weights.h5 file of the backbone. Prints Markdown
tables as it goes; a part that fails or takes too long says so, and the next one begins. Each of the
four may take --seconds; --quick takes tiny sizes, to see on a processor that everything runs.

The floor of a loss step is what its two products of the similarities take at the rate of a large
float32 product, or what writing and reading the similarities once takes at the bandwidth of a large
sum, whichever is more; both are measured first. A step's share of the peak is XLA's count of its
operations, by time, over the rate of a large bfloat16 product.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from jax_finetuning import finetune  # noqa: E402

import keras_ms  # noqa: E402

IMAGES_PER_CLASS = 5
FULL: dict[str, Any] = {
    "product": 16_384,
    "sum": 2**29,
    "losses": [(80, 512), (1024, 512), (4096, 512), (8192, 512), (32_768, 512)],
    # those of Stanford Online Products' test set, and a large catalogue
    "recalls": [(60_502, 512, 11_316), (1_000_000, 128, 100_000)],
    "backbones": [("bn_inception", 224), ("inception_v3", 299), ("vit_s", 224)],
    "batch": 80,
    "rounds": 20,
}
QUICK: dict[str, Any] = {
    "product": 256,
    "sum": 2**16,
    "losses": [(20, 16), (40, 16)],
    "recalls": [(200, 16, 40)],
    "backbones": [("small", 32)],
    "batch": 10,
    "rounds": 2,
}


class TookTooLong(Exception):
    """A part has used up its time."""


class Clock:
    """The seconds that a part may take."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def check(self, done: int = 0, total: int | None = None) -> None:
        """Raises TookTooLong when they are over.

        Args:
            done: how much of the work is done, for the message. Defaults to 0.
            total: how much there is. Defaults to None: not known.
        """
        if time.monotonic() > self._end:
            raise TookTooLong(f" with {done / total:.0%} done" if total else "")


def median_seconds(step: Callable[[], Any], rounds: int, clock: Clock) -> float:
    """The median time of a step after its first call, which compiles."""
    jax.block_until_ready(step())
    times = []
    for _ in range(rounds):
        clock.check()
        start = time.perf_counter()
        jax.block_until_ready(step())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_machine(sizes, clock) -> dict[str, float]:
    """Operations and bytes a second, by name."""
    device = jax.devices()[0]
    print(f"\n{len(jax.devices())} x {device.device_kind}, jax {jax.__version__}, ", end="")
    print(f"keras {keras.__version__}\n\n| | measured |\n|---|---|")
    side, found = sizes["product"], {}
    multiply = jax.jit(lambda a, b: a @ b)
    for name, kind in (("float32", jnp.float32), ("bfloat16", jnp.bfloat16)):
        a, b = (jax.random.normal(jax.random.key(n), (side, side)).astype(kind) for n in range(2))
        seconds = median_seconds(lambda a=a, b=b: multiply(a, b), sizes["rounds"], clock)
        found[name] = 2 * side**3 / seconds
        print(f"| {name} product, {side} x {side} | {found[name] / 1e12:.2f} Tflop/s |", flush=True)
    long, add = jnp.zeros(sizes["sum"]), jax.jit(lambda x: x + 1)
    found["bytes"] = 8 * sizes["sum"] / median_seconds(lambda: add(long), sizes["rounds"], clock)
    print(f"| bandwidth, a sum of {4 * sizes['sum'] / 1e9:.2g} GB | ", end="")
    print(f"{found['bytes'] / 1e9:.0f} GB/s |", flush=True)
    return found


def clustered(count, dimension, num_classes, seed=0):
    """Unit rows about the centres of their classes, and their class ids."""
    random = np.random.default_rng(seed)
    labels = np.sort(np.arange(count) % num_classes)
    centres = random.standard_normal((num_classes, dimension), np.float32)
    rows = centres[labels] + random.standard_normal((count, dimension), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels.astype("int32")


def measure_losses(sizes, clock, machine) -> None:
    print("\n| Multi-Similarity loss and gradient | step, ms | floor, ms | times the floor |")
    print("|---|---|---|---|", flush=True)
    for count, dimension in sizes["losses"]:
        rows, labels = clustered(count, dimension, count // IMAGES_PER_CLASS)
        rows, loss = jnp.asarray(rows), keras_ms.MultiSimilarityLoss()
        step = jax.jit(jax.value_and_grad(lambda x, labels=labels, loss=loss: loss(labels, x)))
        seconds = median_seconds(lambda step=step, rows=rows: step(rows), sizes["rounds"], clock)
        floor = max(4 * count**2 * dimension / machine["float32"], 8 * count**2 / machine["bytes"])
        print(f"| {count:,} x {dimension} | {1e3 * seconds:.3f} | {1e3 * floor:.3f} ", end="")
        print(f"| {seconds / floor:.1f} |", flush=True)


def measure_recall(sizes, clock, block_size) -> None:
    print(f"\n| Recall@K, exact, tiles of {block_size} | seconds | Recall@1 |\n|---|---|---|")
    for count, dimension, num_classes in sizes["recalls"]:
        rows, labels = clustered(count, dimension, num_classes)
        start = time.perf_counter()
        found = keras_ms.recall_at_k(
            rows, labels, ks=(1,), block_size=block_size, progress=clock.check
        )
        seconds = time.perf_counter() - start
        print(f"| {count:,} x {dimension} | {seconds:.2f} | {found[1]:.4f} |", flush=True)


def built_embedder(name, image_size):
    """An embedder by the name of its backbone, at random; raises ImportError without KerasHub."""
    if name != "vit_s":
        return keras_ms.build_embedder(
            name, embedding_size=512, image_size=image_size, frozen_batch_norm=True
        )
    import keras_hub

    vit: Any = keras_hub.models.ViTBackbone(
        image_shape=(image_size, image_size, 3), patch_size=16, num_layers=12, num_heads=6,
        hidden_dim=384, mlp_dim=1536,
    )  # fmt: skip
    images = keras.Input((image_size, image_size, 3))
    tokens = vit(keras.layers.Rescaling(1 / 127.5, offset=-1)(images))
    embeddings = keras.layers.Dense(512, dtype="float32")(tokens[:, 0])
    return keras.Model(images, keras.layers.UnitNormalization(dtype="float32")(embeddings))


def training_step(embedder, optimizer):
    """A function of (state, images, labels) that returns the state after a step and its loss."""
    loss_of = keras_ms.MultiSimilarityLoss()

    def forward(trained, others, images, labels):
        embeddings, others = embedder.stateless_call(trained, others, images, training=True)
        return loss_of(labels, embeddings), others

    def step(state, images, labels):
        trained, others, slots = state
        (loss, others), gradients = jax.value_and_grad(forward, has_aux=True)(
            trained, others, images, labels
        )
        trained, slots = optimizer.stateless_apply(slots, gradients, trained)
        return (trained, others, slots), loss

    return step


def measure_training(sizes, clock, machine) -> None:
    count = sizes["batch"]
    print(f"\n| Training step, mixed_bfloat16, batch of {count} | images/s | ms | share of peak |")
    print("|---|---|---|---|", flush=True)
    for name, side in sizes["backbones"]:
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            embedder = built_embedder(name, side)
        except ImportError as error:
            print(f"| {name}, {side} px | skipped: {error} | | |", flush=True)
            continue
        finally:
            keras.config.set_dtype_policy("float32")
        optimizer = keras_ms.GroupedAdam(3e-5)
        optimizer.build(embedder.trainable_variables)
        images = 255 * jax.random.uniform(jax.random.key(0), (count, side, side, 3))
        labels = jnp.arange(count) // IMAGES_PER_CLASS
        variables = (
            embedder.trainable_variables, embedder.non_trainable_variables, optimizer.variables
        )  # fmt: skip
        # copies: the step takes the memory of the state it is given
        state = jax.tree.map(jnp.copy, tuple([v.value for v in part] for part in variables))
        step = jax.jit(training_step(embedder, optimizer), donate_argnums=0)
        compiled = step.lower(state, images, labels).compile()
        operations: Any = compiled.cost_analysis() or {}
        kept = [state]

        def once(kept=kept, compiled=compiled, images=images, labels=labels):
            kept[0], loss = compiled(kept[0], images, labels)
            return loss

        seconds = median_seconds(once, sizes["rounds"], clock)
        share = operations.get("flops", float("nan")) / seconds / machine["bfloat16"]
        print(f"| {name}, {side} px | {count / seconds:,.0f} | {1e3 * seconds:.2f} ", end="")
        print(f"| {share:.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder with a subfolder for each class")
    parser.add_argument("--backbone", default="", help="default: bn_inception, small with --quick")
    parser.add_argument("--weights", type=Path, help=".weights.h5 of the backbone; else random")
    parser.add_argument("--steps", type=int, default=0, help="default: 300, with --quick 4")
    parser.add_argument("--block-size", type=int, default=4096, help="of Recall@K")
    parser.add_argument("--seconds", type=float, default=120, help="that each part may take")
    parser.add_argument("--parts", default="losses,recall,training,finetuning")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    machine = measure_machine(sizes, Clock(options.seconds))
    parts = {
        "losses": lambda clock: measure_losses(sizes, clock, machine),
        "recall": lambda clock: measure_recall(sizes, clock, options.block_size),
        "training": lambda clock: measure_training(sizes, clock, machine),
        "finetuning": lambda clock: finetune(
            options.photos,
            options.backbone or ("small" if options.quick else "bn_inception"),
            options.weights,
            steps=options.steps or (4 if options.quick else 300),
            classes_per_batch=2 if options.quick else 16,
            check_time=clock.check,
        ),
    }
    failed = False
    for name in options.parts.split(","):
        try:
            parts[name](Clock(options.seconds))
        except TookTooLong as late:
            print(f"\n{name}: given up after {options.seconds:.0f} s{late}", flush=True)
        except Exception as error:  # out of memory, say: the parts after it are still wanted
            print(f"\n{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
