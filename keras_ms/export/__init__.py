"""Trained models as files for other programs: TensorFlow SavedModel and ONNX.

Both writers take any Keras model with one input and one output, write its inference mode, compare
the written file with the model and leave the destination as it was when the two differ. The file
says how it is to be fed: `Preprocessing`.
"""

from keras_ms.export.embedder import Embedder as Embedder
from keras_ms.export.embedder import embed_images as embed_images
from keras_ms.export.embedder import load_embedder as load_embedder
from keras_ms.export.onnx_file import export_onnx as export_onnx
from keras_ms.export.parity import ExportMismatchError as ExportMismatchError
from keras_ms.export.preprocessing import Preprocessing as Preprocessing
from keras_ms.export.preprocessing import read_preprocessing as read_preprocessing
from keras_ms.export.quantisation import QuantisationRefused as QuantisationRefused
from keras_ms.export.quantisation import quantize_onnx as quantize_onnx
from keras_ms.export.saved_model import export_saved_model as export_saved_model
from keras_ms.export.verification import verify_export as verify_export
