"""Time and peak memory of a class tree of the size of Stanford Online Products.

    python scripts/benchmarks/class_tree.py

59,551 embeddings of 512 numbers in 11,318 classes, which lie in 12 groups as its products do; both
linkages, each in a process of its own, and the three nearest classes of each.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from keras_ms.htl.class_tree import ClassTree
from keras_ms.htl.hierarchy import LINKAGES

NUM_IMAGES, NUM_CLASSES, NUM_GROUPS, DIMENSION = 59_551, 11_318, 12, 512


def embeddings_and_labels():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(NUM_GROUPS, DIMENSION))[rng.integers(NUM_GROUPS, size=NUM_CLASSES)]
    centres = centres + 0.7 * rng.normal(size=centres.shape)
    # two images of every class, the others at random
    labels = np.concatenate(
        [np.repeat(np.arange(NUM_CLASSES), 2), rng.integers(NUM_CLASSES, size=NUM_IMAGES)]
    )[:NUM_IMAGES]
    noise = rng.normal(size=(NUM_IMAGES, DIMENSION)).astype("float32")
    return centres.astype("float32")[labels] + 0.4 * noise, labels


def measure(linkage):
    embeddings, labels = embeddings_and_labels()
    before = peak()
    start = time.perf_counter(), time.process_time()
    tree = ClassTree.build(embeddings, labels, linkage=linkage)
    built = time.perf_counter() - start[0], time.process_time() - start[1]
    start = time.perf_counter()
    tree.nearest(3)
    search = time.perf_counter() - start
    print(tree)
    print(
        f"{linkage}: built in {built[0]:.1f} s ({built[1]:.1f} s of processor time), 3 "
        f"nearest classes of each in {search:.1f} s; peak {peak():.0f} MiB, of which {before:.0f} "
        "MiB before (TensorFlow and the embeddings)",
        flush=True,
    )


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--linkage", choices=LINKAGES, help="one linkage, in this process")
    linkage = parser.parse_args().linkage
    if linkage:
        measure(linkage)
        return
    for linkage in LINKAGES:
        subprocess.run([sys.executable, __file__, "--linkage", linkage], check=True)


if __name__ == "__main__":
    main()
