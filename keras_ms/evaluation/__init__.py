"""How good an embedding is: exact retrieval metrics in bounded memory."""

from keras_ms.evaluation.ranks import best_positive_ranks as best_positive_ranks
from keras_ms.evaluation.retrieval import Recalls as Recalls
from keras_ms.evaluation.retrieval import recall_at_k as recall_at_k
