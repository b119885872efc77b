"""Who is paired with whom: the pairs of a batch, exact labels, mining, several replicas."""

from keras_ms.pairs.pairs import Pairs as Pairs
from keras_ms.pairs.row_wise import RowForm as RowForm
from keras_ms.pairs.row_wise import RowParts as RowParts
from keras_ms.pairs.row_wise import RowWise as RowWise
