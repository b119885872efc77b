"""From pictures to a search: embeddings of many pictures in files, and what is made of them."""

from keras_ms.search.embedding_run import EmbeddedPictures as EmbeddedPictures
from keras_ms.search.embedding_run import embed_pictures as embed_pictures
