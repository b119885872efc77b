"""Throughput of keras-ms embed against a bare loop that decodes and runs the same model.

    pip install -e ".[onnx,search]"
    python scripts/benchmarks/embed.py embedder.onnx photos --pairs 3

The bare loop reads, decodes and cuts pictures in tf.data, ahead of onnxruntime, and keeps the rows
in memory. Both take turns in one process. Prints pictures a second of each, and the ratios by the
clock and by processor time, which other programs on the machine disturb less; at last the fastest
round of each, which they disturb least.
"""

import argparse
import os
import statistics
import tempfile
import time

from record import add_record_option, record

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_ms  # noqa: E402, F401, before TensorFlow, whose first lines it drops

NAMES = ("bare loop", "embed")


def bare_loop(embedder, paths, size, resize_to):
    import numpy as np

    from keras_ms.data.image_list import ImageList
    from keras_ms.data.images import evaluation_batches

    count = len(paths)
    images = ImageList(paths, np.zeros(count, int), ("all",), np.array(["test"] * count))
    batches = evaluation_batches(images, size, resize_to=resize_to, cache=False)
    return np.concatenate([embedder.run(batch.numpy()) for batch, _ in batches])


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument("photos", help="a folder")
    parser.add_argument("--pairs", type=int, default=3, metavar="N")
    parser.add_argument("--first", type=int, metavar="N", help="pictures; default: all")
    add_record_option(parser)
    options = parser.parse_args()
    from keras_ms.export.embedder import load_embedder, view_sizes
    from keras_ms.search import embed_pictures
    from keras_ms.search.picture_list import list_pictures

    embedder = load_embedder(options.model)
    paths = list_pictures(options.photos).paths[: options.first]
    size, resize_to = view_sizes(embedder)
    rows, ratios, processor_ratios = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        table = os.path.join(folder, "list.csv")
        with open(table, "w", encoding="utf-8") as file:
            file.write("\n".join(["path", *map(os.path.abspath, paths)]))
        bare_loop(embedder, paths[:64], size, resize_to)
        for pair in range(options.pairs):
            seconds, processor_seconds = {}, {}
            for name in ("bare", "embed") if pair % 2 == 0 else ("embed", "bare"):
                started, processor_started = time.monotonic(), time.process_time()
                if name == "bare":
                    bare_loop(embedder, paths, size, resize_to)
                else:
                    embed_pictures(options.model, table, to=f"{folder}/{pair}", verbose=False)
                seconds[name] = time.monotonic() - started
                processor_seconds[name] = time.process_time() - processor_started
            ratios.append(seconds["bare"] / seconds["embed"])
            processor_ratios.append(processor_seconds["bare"] / processor_seconds["embed"])
            rates = {name: f"{len(paths) / value:.1f}" for name, value in seconds.items()}
            load = os.getloadavg()[0]
            rows[f"pair {pair + 1}"] = {
                "bare loop, photos a second": round(len(paths) / seconds["bare"], 1),
                "embed, photos a second": round(len(paths) / seconds["embed"], 1),
                "ratio": round(ratios[-1], 2),
                "by processor time": round(processor_ratios[-1], 2),
                "load": round(load, 1),
            }
            print(
                f"pictures a second: {rates}, ratio {ratios[-1]:.2f}, by processor time "
                f"{processor_ratios[-1]:.2f}, load {load:.1f}",
                flush=True,
            )
    print(
        f"{len(paths):,} pictures, median ratio {statistics.median(ratios):.2f}, by processor time "
        f"{statistics.median(processor_ratios):.2f}"
    )
    bare, embed = (max(row[f"{name}, photos a second"] for row in rows.values()) for name in NAMES)
    print(f"fastest of each: {bare:.1f} and {embed:.1f}, ratio {embed / bare:.2f}")
    if options.record:
        rows["median"] = {
            column: round(statistics.median(row[column] for row in rows.values()), 2)
            for column in rows["pair 1"]
        }
        rows["fastest of each"] = {
            **dict.fromkeys(rows["median"]),
            "bare loop, photos a second": bare,
            "embed, photos a second": embed,
            "ratio": round(embed / bare, 2),
        }
        record(
            "embed",
            rows,
            sizes=f"{len(paths):,} photos",
            threads=os.cpu_count() or 1,
            rounds=options.pairs,
            ratios=["ratio", "by processor time"],
        )


if __name__ == "__main__":
    main()
