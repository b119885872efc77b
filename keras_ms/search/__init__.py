"""From pictures to a search: embeddings of many pictures in files, and what is made of them."""

from keras_ms.search.embedding_run import EmbeddedPictures as EmbeddedPictures
from keras_ms.search.embedding_run import embed_pictures as embed_pictures
from keras_ms.search.index import Index as Index
from keras_ms.search.index import IndexedModel as IndexedModel
from keras_ms.search.picture_view import PictureView as PictureView
