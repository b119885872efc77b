"""Callbacks for `fit`: what is measured, explained and chosen while a model trains."""

from keras_ms.callbacks.averaged_weights import WithAveragedWeights as WithAveragedWeights
from keras_ms.callbacks.explain_zero_loss import ExplainZeroLoss as ExplainZeroLoss
from keras_ms.callbacks.interpolate_weights import InterpolateWeights as InterpolateWeights
from keras_ms.callbacks.keep_best_weights import KeepBestWeights as KeepBestWeights
from keras_ms.callbacks.recall_at_k import RecallAtK as RecallAtK
