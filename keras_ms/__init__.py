"""Deep metric learning for TensorFlow and Keras 3.

Importing this module registers every Loss, Layer, metric and optimizer with Keras, so that a saved
model reloads after `import keras_ms`. What registers nothing (data, export) loads on first use.
"""

import importlib
import os

from keras_ms.terminal.start import is_command, quiet_import, start_command

if is_command():
    start_command()
    # of TensorFlow's start-up lines, none concerns who uses the commands
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with quiet_import():
    import keras  # noqa: F401

__version__ = "0.1.0"

from keras_ms.callbacks import ExplainZeroLoss as ExplainZeroLoss
from keras_ms.callbacks import InterpolateWeights as InterpolateWeights
from keras_ms.callbacks import RecallAtK as RecallAtK
from keras_ms.evaluation.retrieval import recall_at_k as recall_at_k
from keras_ms.hdml.model import HDML as HDML
from keras_ms.htl.callback import RebuildClassTree as RebuildClassTree
from keras_ms.htl.class_tree import ClassTree as ClassTree
from keras_ms.htl.loss import (
    HierarchicalTripletLoss as HierarchicalTripletLoss,
)
from keras_ms.losses.angular import AngularLoss as AngularLoss
from keras_ms.losses.binomial_deviance import BinomialDevianceLoss as BinomialDevianceLoss
from keras_ms.losses.circle import CircleLoss as CircleLoss
from keras_ms.losses.composite import CompositeLoss as CompositeLoss
from keras_ms.losses.contrastive import ContrastiveLoss as ContrastiveLoss
from keras_ms.losses.histogram import HistogramLoss as HistogramLoss
from keras_ms.losses.lifted_structure import LiftedStructureLoss as LiftedStructureLoss
from keras_ms.losses.margin import MarginLoss as MarginLoss
from keras_ms.losses.mined_anchors import MinedAnchors as MinedAnchors
from keras_ms.losses.multi_similarity import MultiSimilarityLoss as MultiSimilarityLoss
from keras_ms.losses.n_pair import NPairLoss as NPairLoss
from keras_ms.losses.pair_loss import PairLoss as PairLoss
from keras_ms.losses.pair_weights import PairStatistics as PairStatistics
from keras_ms.losses.pair_weights import pair_weights as pair_weights
from keras_ms.losses.proxies import Proxies as Proxies
from keras_ms.losses.proxies import ProxyAnchorLoss as ProxyAnchorLoss
from keras_ms.losses.proxies import ProxyNCALoss as ProxyNCALoss
from keras_ms.losses.supervised_contrastive import (
    SupervisedContrastiveLoss as SupervisedContrastiveLoss,
)
from keras_ms.losses.triplet import TripletLoss as TripletLoss
from keras_ms.losses.weighted_pairs import WeightedPairLoss as WeightedPairLoss
from keras_ms.models.cross_batch_memory import CrossBatchMemory as CrossBatchMemory
from keras_ms.models.embedding import build_embedder as build_embedder
from keras_ms.models.embedding import split_embedder as split_embedder
from keras_ms.models.embedding import without_normalization as without_normalization
from keras_ms.models.head_start import initialize_head as initialize_head
from keras_ms.optimizers import GroupedAdam as GroupedAdam
from keras_ms.optimizers import StageSchedule as StageSchedule

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
    "evaluate_embeddings": "keras_ms.evaluation",
    "export_onnx": "keras_ms.export",
    "export_saved_model": "keras_ms.export",
    "load_cars": "keras_ms.data.sets.cars",
    "load_csv": "keras_ms.data.sets.csv_list",
    "load_cub": "keras_ms.data.sets.cub",
    "load_grocery": "keras_ms.data.sets.grocery",
    "load_in_shop": "keras_ms.data.sets.in_shop",
    "load_omniglot": "keras_ms.data.sets.omniglot",
    "load_sop": "keras_ms.data.sets.sop",
    "neighbour_batches": "keras_ms.htl.batches",
    "read_curriculum": "keras_ms.curriculum.table",
    "validation_batches": "keras_ms.data.validation_batches",
    "write_curriculum": "keras_ms.curriculum.table",
    "write_report": "keras_ms.report",
}

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
    "WeightedPairLoss",
    "balanced_batches",
    "build_embedder",
    "collect_report",
    "curriculum_balanced_batches",
    "curriculum_batches",
    "curriculum_subsets",
    "draw_glyphs",
    "evaluate_embeddings",
    "export_onnx",
    "export_saved_model",
    "initialize_head",
    "load_cars",
    "load_csv",
    "load_cub",
    "load_grocery",
    "load_in_shop",
    "load_omniglot",
    "load_sop",
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


def __getattr__(name):
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'keras_ms' has no attribute {name!r}")
    value = getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(_ON_FIRST_USE))
