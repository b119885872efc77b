"""HDML written down literally: loops over tuples in NumPy float64, no shared code."""

import numpy as np

BATCH_NORM_EPSILON = 1e-3  # Keras's default


def distance(a, b):
    return float(np.sqrt(np.sum((np.asarray(a) - np.asarray(b)) ** 2)))


def harden(anchor, positive, negative, weight):
    to_positive, to_negative = distance(anchor, positive), distance(anchor, negative)
    if to_negative > to_positive:
        length = weight * to_negative + (1 - weight) * to_positive
        return anchor + length * (negative - anchor) / to_negative
    return np.array(negative)


def cross_entropy(logits, index):
    largest = logits.max()
    return largest + np.log(np.sum(np.exp(logits - largest))) - logits[index]


def first_two(labels):
    """(anchor, positive) of every class with two items, in the order of the anchors."""
    pairs = []
    for index, label in enumerate(labels):
        if label in labels[:index]:
            continue
        others = [j for j in range(index + 1, len(labels)) if labels[j] == label]
        if others:
            pairs.append((index, others[0]))
    return pairs


def n_pair_triplets(labels, embeddings, options):
    pairs = first_two(labels)
    return [(a, p, other) for a, p in pairs for _, other in pairs]


def triplet_triplets(labels, embeddings, options):
    size, found = len(labels), []
    for anchor in range(size):
        after = [(anchor + step) % size for step in range(1, size)]
        from_half = [(anchor + size // 2 + step) % size for step in range(size)]
        positives = [j for j in after if labels[j] == labels[anchor]]
        negatives = [j for j in from_half if labels[j] != labels[anchor]]
        if positives and negatives:
            found.append((anchor, positives[0], negatives[0]))
    return found


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def pair_triplets(labels, embeddings, options):
    size, found = len(labels), []
    for anchor in range(size):
        similarity = [cosine(embeddings[anchor], row) for row in embeddings]
        positives = [j for j in range(size) if labels[j] == labels[anchor] and j != anchor]
        negatives = [j for j in range(size) if labels[j] != labels[anchor]]
        if positives and negatives:
            nearest = max(positives, key=lambda j: similarity[j])
            hardest = sorted(negatives, key=lambda j: -similarity[j])
            found += [(anchor, nearest, j) for j in hardest[: options["negatives_per_anchor"]]]
    return found


def n_pair_loss(anchors, positives_of, regularization):
    """`positives_of[i][j]`: the positive of class j that anchor i meets."""
    total = 0.0
    for i, anchor in enumerate(anchors):
        products = np.array([anchor @ positive for positive in positives_of[i]])
        total += np.log(1 + sum(np.exp(products[j] - products[i])
                                for j in range(len(products)) if j != i))  # fmt: skip
    norms = np.mean([a @ a for a in anchors])
    norms += np.mean([p @ p for row in positives_of for p in row])
    return total / len(anchors) + regularization / 4 * norms


def multi_similarity(positives, negatives, alpha=2.0, beta=40.0, threshold=0.5, epsilon=0.1):
    """One anchor's loss from its lists of similarities."""
    kept_positives = [s for s in positives if s < max(negatives) + epsilon]
    kept_negatives = [s for s in negatives if s > min(positives) - epsilon]
    pull = np.log(1 + sum(np.exp(-alpha * (s - threshold)) for s in kept_positives)) / alpha
    push = np.log(1 + sum(np.exp(beta * (s - threshold)) for s in kept_negatives)) / beta
    return pull + push


def metric_loss(kind, labels, embeddings, negatives_of, triplets, options, l2=True):
    """J of a kind of tuples; `negatives_of` (triplets, dimension) are the negatives that count."""
    if kind == "n_pair":
        pairs = first_two(labels)
        rows = [negatives_of[k * len(pairs) : (k + 1) * len(pairs)] for k in range(len(pairs))]
        factor = options["regularization"] if l2 else 0.0
        return n_pair_loss([embeddings[a] for a, _ in pairs], rows, factor)
    if kind == "triplet":
        return sum(
            max(0.0, distance(embeddings[a], embeddings[p]) ** 2
                - distance(embeddings[a], negative) ** 2 + options["margin"])
            for (a, p, _), negative in zip(triplets, negatives_of)
        )  # fmt: skip
    total = 0.0
    for anchor in range(len(labels)):
        negatives = [
            cosine(embeddings[anchor], row)
            for (a, _, _), row in zip(triplets, negatives_of)
            if a == anchor
        ]
        positives = [
            cosine(embeddings[anchor], embeddings[j])
            for j in range(len(labels))
            if labels[j] == labels[anchor] and j != anchor
        ]
        if positives and negatives:
            total += multi_similarity(positives, negatives)
    return total / len(labels)


TRIPLETS = {"n_pair": n_pair_triplets, "triplet": triplet_triplets, "pairs": pair_triplets}


def all_negatives(labels, embeddings):
    """Every (anchor, None, negative) of the batch, which a pair-based loss compares."""
    size = range(len(labels))
    return [(a, None, n) for a in size for n in size if labels[a] != labels[n]]


def step(parameters, features, labels, kind, mode, weight, share, lambda_g, options):
    """(J_metric, J_gen, J_class) of one step.

    `parameters`: dict of float64 arrays: embed_kernel, embed_bias; generator_kernel, _bias, _gamma,
    _beta, _kernel2, _bias2; classifier_kernel, _bias. Labels are rows of the classifier.
    """
    p = parameters

    def embed(rows):
        return rows @ p["embed_kernel"] + p["embed_bias"]

    def classify(rows):
        return rows @ p["classifier_kernel"] + p["classifier_bias"]

    def generate(rows):
        hidden = np.maximum(rows @ p["generator_kernel"] + p["generator_bias"], 0)
        mean, variance = hidden.mean(axis=0), hidden.var(axis=0)
        hidden = (hidden - mean) / np.sqrt(variance + BATCH_NORM_EPSILON)
        hidden = hidden * p["generator_gamma"] + p["generator_beta"]
        return hidden @ p["generator_kernel2"] + p["generator_bias2"]

    embeddings = embed(features)
    triplets = TRIPLETS[kind](labels, embeddings, options)
    hardened = [harden(embeddings[a], embeddings[q], embeddings[n], weight)
                for a, q, n in triplets]  # fmt: skip
    generated = generate(np.array([*embeddings, *hardened]))
    reconstructed, synthetic = generated[: len(labels)], generated[len(labels) :]

    real_triplets = all_negatives(labels, embeddings) if kind == "pairs" else triplets
    real = metric_loss(kind, labels, embeddings, [embeddings[n] for _, _, n in real_triplets],
                       real_triplets, options)  # fmt: skip
    again = metric_loss(kind, labels, embed(reconstructed), embed(synthetic), triplets, options,
                        l2=mode == "official")  # fmt: skip

    error = float(np.sum((features - reconstructed) ** 2))
    of_synthetic = [cross_entropy(classify(row), labels[n])
                    for row, (_, _, n) in zip(synthetic, triplets)]  # fmt: skip
    of_batch = [cross_entropy(classify(row), label)
                for row, label in zip(reconstructed, labels)]  # fmt: skip
    if mode == "paper":
        generator = error + lambda_g * sum(of_synthetic)
    else:
        if kind == "n_pair":
            anchors = [of_batch[a] for a, _ in first_two(labels)]
            label_loss = np.mean(of_batch) + np.mean(of_synthetic) + np.mean(anchors)
        else:
            label_loss = np.mean(of_batch + of_synthetic)
        generator = (1 - lambda_g) * error + 1e4 * lambda_g * label_loss
    classifier = np.mean([cross_entropy(classify(row), label)
                          for row, label in zip(features, labels)])  # fmt: skip
    return share * real + (1 - share) * again, generator, classifier


def slopes(parameters, name, indices, which, arguments, width=1e-6):
    """Central differences of one of the three losses with respect to some entries."""
    found = []
    for index in indices:
        values = []
        for sign in (1, -1):
            moved = dict(parameters, **{name: parameters[name].copy()})
            moved[name][index] += sign * width
            values.append(step(moved, *arguments)[which])
        found.append((values[0] - values[1]) / (2 * width))
    return np.array(found)
