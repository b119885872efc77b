"""Public names that come with `import keras_ms`: all that Keras knows by name once imported.

The losses, layers, metrics, models, optimizers and callbacks, and the functions beside them;
what needs more packages is imported on first use (`_ON_FIRST_USE` in `keras_ms/__init__.py`).
"""

from keras_ms.callbacks import ExplainZeroLoss as ExplainZeroLoss
from keras_ms.callbacks import InterpolateWeights as InterpolateWeights
from keras_ms.callbacks import KeepBestWeights as KeepBestWeights
from keras_ms.callbacks import RecallAtK as RecallAtK
from keras_ms.callbacks import WithAveragedWeights as WithAveragedWeights
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
from keras_ms.models.averaged_views import average_views as average_views
from keras_ms.models.checkpointed_blocks import checkpointed_blocks as checkpointed_blocks
from keras_ms.models.cross_batch_memory import CrossBatchMemory as CrossBatchMemory
from keras_ms.models.embedding import build_embedder as build_embedder
from keras_ms.models.embedding import split_embedder as split_embedder
from keras_ms.models.embedding import without_normalization as without_normalization
from keras_ms.models.frozen_layers import freeze_blocks as freeze_blocks
from keras_ms.models.head_start import initialize_head as initialize_head
from keras_ms.models.lora import enable_lora as enable_lora
from keras_ms.models.lora import merge_lora as merge_lora
from keras_ms.optimizers import GroupedAdam as GroupedAdam
from keras_ms.optimizers import StageSchedule as StageSchedule
from keras_ms.optimizers import WarmUp as WarmUp
from keras_ms.optimizers import decayed_kernels as decayed_kernels
