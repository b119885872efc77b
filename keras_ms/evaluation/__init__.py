"""How good an embedding is: exact retrieval metrics in bounded memory, and cluster metrics."""

from keras_ms.evaluation.all_metrics import METRICS as METRICS
from keras_ms.evaluation.all_metrics import Evaluation as Evaluation
from keras_ms.evaluation.all_metrics import evaluate_embeddings as evaluate_embeddings
from keras_ms.evaluation.average_precision import PrecisionAtR as PrecisionAtR
from keras_ms.evaluation.average_precision import precision_at_r as precision_at_r
from keras_ms.evaluation.class_bootstrap import class_bootstrap as class_bootstrap
from keras_ms.evaluation.clustering import ClusterScores as ClusterScores
from keras_ms.evaluation.clustering import cluster_embeddings as cluster_embeddings
from keras_ms.evaluation.clustering import cluster_scores as cluster_scores
from keras_ms.evaluation.ranks import best_positive_ranks as best_positive_ranks
from keras_ms.evaluation.retrieval import Recalls as Recalls
from keras_ms.evaluation.retrieval import recall_at_k as recall_at_k
