"""From which size on a batch is compared in tiles or in blocks, instead of all at once."""

import os
from typing import Literal, NamedTuple

from keras_ms.pairs.pairwise import Pairwise
from keras_ms.terminal.cores import num_cores

# A (batch, batch) float32 matrix of 8192 items takes 256 MiB, and a few of them exist at a time; a
# block of 256 anchors keeps a matrix of 32,768 candidates at 32 MiB
BLOCKS_FROM, BLOCK = 8192, 256

# On a processor, tiles from here on, for each of its threads: 256 x 256 float32 and what is made
# of them stay in its cache. Tiles follow each other and each is divided among the threads, so that
# more threads gain less from them: one thread takes 1024 items in 0.94 of the time of all at once,
# 2048 in 0.75; two threads in 1.0 to 1.1 and in 0.9 (scripts/benchmarks/loss_step.py).
# Up to the third number the similarities of all tiles are kept, at most 132 MiB.
TILES_FROM, TILE, TILES_KEPT_TO = 1024, 256, 8192


class Tiling(NamedTuple):
    """How `Pairwise.losses_in_tiles` divides a batch.

    tile_size: rows and columns of a tile.
    keeps: whether the similarities of all tiles are kept.
    """

    tile_size: int
    keeps: bool


def tiling(
    size: int | None, block_size: int | Literal["auto"] | None, pairwise: Pairwise
) -> Tiling | None:
    """The Tiling of a batch, None for one that does not go in tiles.

    Args:
        size: of the batch, None for one that is not known when a step is traced.
        block_size: as in `keras_ms.PairLoss`; only "auto" takes tiles.
        pairwise: what computes the loss; only a compiled one whose parts are known takes tiles.
    """
    if size is None or block_size != "auto" or not (pairwise.compiled and pairwise.has_parts):
        return None
    import tensorflow as tf

    # a GPU has one program a tile to start, and would wait for it
    if size < TILES_FROM * num_threads() or tf.config.list_physical_devices("GPU"):
        return None
    # even tiles, so that the last one is not mostly padding; 16 numbers fill a register
    number = -(-size // TILE)
    return Tiling(16 * -(-size // (16 * number)), size <= TILES_KEPT_TO)


def goes_in_blocks(size: int | None, block_size: int | Literal["auto"] | None) -> bool:
    """Whether so many anchors are compared a block at a time; `block_size` as in `tiling`."""
    if block_size == "auto":
        return size is not None and size >= BLOCKS_FROM
    return block_size is not None


def num_threads() -> int:
    """How many threads an operation of TensorFlow is divided among on the processor."""
    import tensorflow as tf

    told = tf.config.threading.get_intra_op_parallelism_threads()
    if told <= 0:
        from_environment = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
        told = int(from_environment) if from_environment.isdigit() else 0
    return told if told > 0 else num_cores()
