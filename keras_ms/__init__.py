"""Deep metric learning for TensorFlow and Keras 3.

Importing this module registers every Loss, Layer, metric and optimizer with Keras, so that a saved
model reloads after `import keras_ms`. What registers nothing (data, export) loads on first use. In
a command, so do Keras and all the rest: its help and its refusals take no seconds.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from keras_ms.compat import find_moved_modules
from keras_ms.terminal.start import is_command, quiet_import, start_command

__version__ = "0.1.0"

find_moved_modules()
if is_command():
    start_command()
    # of TensorFlow's start-up lines, none concerns who uses the commands
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
else:
    with quiet_import():
        import keras
    from keras_ms.run.registered import *

if TYPE_CHECKING:
    from keras_ms.curriculum.batches import (
        curriculum_balanced_batches as curriculum_balanced_batches,
    )
    from keras_ms.curriculum.batches import curriculum_batches as curriculum_batches
    from keras_ms.curriculum.subsets import curriculum_subsets as curriculum_subsets
    from keras_ms.curriculum.table import read_curriculum as read_curriculum
    from keras_ms.curriculum.table import write_curriculum as write_curriculum
    from keras_ms.data.balanced_batches import balanced_batches as balanced_batches
    from keras_ms.data.image_list import ImageList as ImageList
    from keras_ms.data.images import evaluation_batches as evaluation_batches
    from keras_ms.data.load_images import load_images as load_images
    from keras_ms.data.sets.cars import load_cars as load_cars
    from keras_ms.data.sets.csv_list import load_csv as load_csv
    from keras_ms.data.sets.cub import load_cub as load_cub
    from keras_ms.data.sets.glyphs import draw_glyphs as draw_glyphs
    from keras_ms.data.sets.grocery import load_grocery as load_grocery
    from keras_ms.data.sets.in_shop import load_in_shop as load_in_shop
    from keras_ms.data.sets.omniglot import load_omniglot as load_omniglot
    from keras_ms.data.sets.sop import load_sop as load_sop
    from keras_ms.data.validation_batches import validation_batches as validation_batches
    from keras_ms.evaluation import evaluate_embeddings as evaluate_embeddings
    from keras_ms.export import Preprocessing as Preprocessing
    from keras_ms.export import export_onnx as export_onnx
    from keras_ms.export import export_saved_model as export_saved_model
    from keras_ms.htl.batches import NeighbourIndices as NeighbourIndices
    from keras_ms.htl.batches import neighbour_batches as neighbour_batches
    from keras_ms.models.backbone_names import list_backbones as list_backbones
    from keras_ms.report import collect_report as collect_report
    from keras_ms.report import draw_neighbours as draw_neighbours
    from keras_ms.report import write_report as write_report

_ON_FIRST_USE = {
    "ImageList": "keras_ms.data.image_list",
    "NeighbourIndices": "keras_ms.htl.batches",
    "Preprocessing": "keras_ms.export",
    "balanced_batches": "keras_ms.data.balanced_batches",
    "collect_report": "keras_ms.report",
    "curriculum_balanced_batches": "keras_ms.curriculum.batches",
    "curriculum_batches": "keras_ms.curriculum.batches",
    "curriculum_subsets": "keras_ms.curriculum.subsets",
    "draw_glyphs": "keras_ms.data.sets.glyphs",
    "draw_neighbours": "keras_ms.report",
    "evaluate_embeddings": "keras_ms.evaluation",
    "evaluation_batches": "keras_ms.data.images",
    "export_onnx": "keras_ms.export",
    "export_saved_model": "keras_ms.export",
    "list_backbones": "keras_ms.models.backbone_names",
    "load_cars": "keras_ms.data.sets.cars",
    "load_csv": "keras_ms.data.sets.csv_list",
    "load_cub": "keras_ms.data.sets.cub",
    "load_grocery": "keras_ms.data.sets.grocery",
    "load_images": "keras_ms.data.load_images",
    "load_in_shop": "keras_ms.data.sets.in_shop",
    "load_omniglot": "keras_ms.data.sets.omniglot",
    "load_sop": "keras_ms.data.sets.sop",
    "neighbour_batches": "keras_ms.htl.batches",
    "read_curriculum": "keras_ms.curriculum.table",
    "validation_batches": "keras_ms.data.validation_batches",
    "write_curriculum": "keras_ms.curriculum.table",
    "write_report": "keras_ms.report",
}
# modules that are imported as they are first named: `keras_ms.search.Index`
_MODULES_ON_FIRST_USE = {"evaluation", "export", "mining", "report", "search", "weighting"}

__all__ = [
    "AngularLoss",
    "BinomialDevianceLoss",
    "CircleLoss",
    "ClassTree",
    "CompositeLoss",
    "ContrastiveLoss",
    "CrossBatchMemory",
    "ExplainZeroLoss",
    "GroupedAdam",
    "HDML",
    "HierarchicalTripletLoss",
    "HistogramLoss",
    "ImageList",
    "InterpolateWeights",
    "KeepBestWeights",
    "LiftedStructureLoss",
    "MarginLoss",
    "MinedAnchors",
    "MultiSimilarityLoss",
    "NPairLoss",
    "NeighbourIndices",
    "PairLoss",
    "PairStatistics",
    "Preprocessing",
    "Proxies",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RebuildClassTree",
    "RecallAtK",
    "StageSchedule",
    "SupervisedContrastiveLoss",
    "TripletLoss",
    "WarmUp",
    "WeightedPairLoss",
    "WithAveragedWeights",
    "average_views",
    "balanced_batches",
    "build_embedder",
    "checkpointed_blocks",
    "collect_report",
    "curriculum_balanced_batches",
    "curriculum_batches",
    "curriculum_subsets",
    "decayed_kernels",
    "draw_glyphs",
    "draw_neighbours",
    "enable_lora",
    "evaluate_embeddings",
    "evaluation_batches",
    "export_onnx",
    "export_saved_model",
    "freeze_blocks",
    "initialize_head",
    "list_backbones",
    "load_cars",
    "load_csv",
    "load_cub",
    "load_grocery",
    "load_images",
    "load_in_shop",
    "load_omniglot",
    "load_sop",
    "merge_lora",
    "neighbour_batches",
    "pair_weights",
    "read_curriculum",
    "recall_at_k",
    "split_embedder",
    "validation_batches",
    "without_normalization",
    "write_curriculum",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in __all__ and name not in _MODULES_ON_FIRST_USE:
        raise AttributeError(f"module 'keras_ms' has no attribute {name!r}")
    try:
        if name in _MODULES_ON_FIRST_USE:
            return importlib.import_module(f"keras_ms.{name}")
        module = importlib.import_module(_ON_FIRST_USE.get(name, "keras_ms.run.registered"))
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ImportError(
            f"keras_ms.{name} reads data with tf.data, on every backend: pip install tensorflow"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__) | _MODULES_ON_FIRST_USE)
