"""A tiny vision transformer of Keras's own layers, as an embedder with the usual layer names."""

import keras
from keras import layers


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class PatchTokens(layers.Layer):
    """Patches of 8 pixels with a class token before them and a place each."""

    def __init__(self, width=12, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.patches = layers.Conv2D(width, 8, strides=8, name="patches")

    def build(self, input_shape):
        self.patches.build(input_shape)
        count = (input_shape[1] // 8) * (input_shape[2] // 8)
        self.class_token = self.add_weight(shape=(1, 1, self.width), name="class_token")
        self.places = self.add_weight(shape=(1, count + 1, self.width), name="position_embeddings")

    def call(self, images):
        tokens = self.patches(images)
        batch = keras.ops.shape(tokens)[0]
        tokens = keras.ops.reshape(tokens, (batch, -1, self.width))
        first = keras.ops.repeat(keras.ops.cast(self.class_token, tokens.dtype), batch, axis=0)
        return keras.ops.concatenate([first, tokens], axis=1) + self.places

    def compute_output_shape(self, shape):
        return (shape[0], (shape[1] // 8) * (shape[2] // 8) + 1, self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class EncoderLayer(layers.Layer):
    """Attention and two dense layers, each behind a normalisation and added."""

    def __init__(self, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.dropout = dropout
        self.before_attention = layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(2, 6, dropout=dropout)
        self.before_dense = layers.LayerNormalization()
        self.hidden = layers.Dense(24, activation="gelu", name="hidden")

    def build(self, shape):
        self.before_attention.build(shape)
        self.attention.build(shape, shape)
        self.before_dense.build(shape)
        self.hidden.build(shape)
        self.outer = layers.Dense(shape[-1], name="outer")
        self.outer.build((*shape[:-1], 24))

    def call(self, tokens, mask=None, scale=None):
        normal = self.before_attention(tokens if scale is None else tokens * scale)
        tokens = tokens + self.attention(normal, normal)
        return tokens + self.outer(self.hidden(self.before_dense(tokens)))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "dropout": self.dropout}


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class Encoder(layers.Layer):
    """Encoder layers and a last normalisation."""

    def __init__(self, depth=3, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.dropout = depth, dropout
        self.blocks = [EncoderLayer(dropout, name=f"layer_{n}") for n in range(depth)]
        self.last = layers.LayerNormalization(name="last")

    def build(self, shape):
        for block in self.blocks:
            block.build(shape)
        self.last.build(shape)

    def call(self, tokens):
        # as KerasHub calls its blocks: with keywords, of tensors and of nothing
        scale = keras.ops.ones(tokens.shape[-1:], tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, mask=None, scale=scale)
        return self.last(tokens)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "depth": self.depth, "dropout": self.dropout}


def transformer_embedder(depth=3, dropout=0.0, seed=0, side=16, embedding_size=8):
    """Images of `side` pixels to embeddings of norm 1."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((side, side, 3), name="image")
    tokens = PatchTokens(name="tokens")(layers.Rescaling(1 / 127.5, -1.0)(pixels))
    tokens = Encoder(depth, dropout, name="encoder")(tokens)
    return embedder_around(keras.Model(pixels, tokens, name="backbone"), embedding_size)


def embedder_around(backbone, embedding_size=8, pool=None):
    """Pooling, a linear layer and the norm behind a backbone of tokens, by the usual names."""
    images = keras.Input(backbone.input_shape[1:], name="image")
    pool = pool or layers.GlobalAveragePooling1D(dtype="float32", name="pool")
    linear = layers.Dense(embedding_size, dtype="float32", name="embedding")
    embeddings = linear(pool(backbone(images)))
    embeddings = layers.UnitNormalization(dtype="float32", name="l2")(embeddings)
    return keras.Model(images, embeddings, name="embedder")
