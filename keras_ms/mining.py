"""Which pairs of a batch are kept: the miners of `keras_ms.pairs.mining`."""

from keras_ms.pairs.mining import mine_all as mine_all
from keras_ms.pairs.mining import mine_hard as mine_hard
from keras_ms.pairs.mining import mine_multi_similarity as mine_multi_similarity
from keras_ms.pairs.mining import mine_one_pair_per_class as mine_one_pair_per_class
from keras_ms.pairs.mining import mine_semi_hard as mine_semi_hard
