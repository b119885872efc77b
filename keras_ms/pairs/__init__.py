"""Who is paired with whom: the pairs of a batch, exact labels, mining, several replicas."""

from keras_ms.pairs.pairs import Pairs as Pairs
from keras_ms.pairs.pairs import RowWise as RowWise
