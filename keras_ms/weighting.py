"""The derivative of every loss by its similarities, in closed form, and the sums it is made of.

The General Pair Weighting framework reads a pair-based loss as a weighting of pairs: at any step
the loss and the sum of weight times similarity have the same gradient. Each weighting takes Pairs
and returns the signed matrix of derivatives of an anchor's loss by its similarities: at most 0 on
positives, at least 0 on negatives, 0 elsewhere (the supervised contrastive loss pushes some
positives, so it is the exception to the signs). Those of losses that take the batch as a whole
(angular, histogram, N-pair, two-sided lifted structure) take a number for each anchor too, and
return the derivative of the sum of number times loss. Each stands in the file of its loss.

Reference: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric
Learning, CVPR 2019, Section 3.
"""

from keras_ms.losses.angular import angular_weights as angular_weights
from keras_ms.losses.binomial_deviance import (
    binomial_deviance_exponents as binomial_deviance_exponents,
)
from keras_ms.losses.binomial_deviance import binomial_deviance_shares as binomial_deviance_shares
from keras_ms.losses.binomial_deviance import binomial_deviance_weights as binomial_deviance_weights
from keras_ms.losses.circle import circle_totals as circle_totals
from keras_ms.losses.circle import circle_weights as circle_weights
from keras_ms.losses.contrastive import contrastive_weights as contrastive_weights
from keras_ms.losses.histogram import histogram_weights as histogram_weights
from keras_ms.losses.lifted_structure import lifted_structure_totals as lifted_structure_totals
from keras_ms.losses.lifted_structure import lifted_structure_weights as lifted_structure_weights
from keras_ms.losses.lifted_structure import (
    two_sided_lifted_structure_weights as two_sided_lifted_structure_weights,
)
from keras_ms.losses.margin import margin_weights as margin_weights
from keras_ms.losses.multi_similarity import (
    multi_similarity_exponents as multi_similarity_exponents,
)
from keras_ms.losses.multi_similarity import multi_similarity_weights as multi_similarity_weights
from keras_ms.losses.n_pair import n_pair_weights as n_pair_weights
from keras_ms.losses.supervised_contrastive import (
    supervised_contrastive_totals as supervised_contrastive_totals,
)
from keras_ms.losses.supervised_contrastive import (
    supervised_contrastive_weights as supervised_contrastive_weights,
)
from keras_ms.losses.triplet import triplet_all_weights as triplet_all_weights
from keras_ms.losses.triplet import triplet_hard_weights as triplet_hard_weights
from keras_ms.losses.triplet import triplet_semi_hard_weights as triplet_semi_hard_weights
from keras_ms.pairs.pairs import log_sums_exp as log_sums_exp
from keras_ms.pairs.pairs import signed as signed
