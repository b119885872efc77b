"""The closing words of a run: what each stage reaches, and whether training was worth it."""

# in the order of the table; what a run lacks is left out
_NAMES = {
    "raw_pixels": "raw pixels",
    "pooled_features": "pooled features",
    "step_0": "step 0",
    "last": "last",
    "chosen": "chosen",
    "exported": "exported files",
}


def closing_table(results, ks):
    """Recall@K of every stage as lines of text.

    Args:
        results: {"validation": {stage: recalls}, "test": {stage: recalls}}; recalls are dicts from
            K as text to a number, or None where the embeddings hold NaN.
        ks: the K of the test classes; of the validation classes Recall@1 is shown.
    """
    validation, test = results["validation"], results["test"]
    width = 8 * len(ks) + 4
    titles = ("test classes (unseen)", "test (unseen)", "test")
    title = next(words for words in titles if len(words) < width)
    lines = [
        f"{'':<26}{'validation':>12}{title:>{width}}",
        f"{'Recall@K':<26}{'@1':>12}" + "    " + "".join(f"{f'@{k}':>8}" for k in ks),
    ]
    for stage, name in _NAMES.items():
        if stage in validation or stage in test:
            cells = "".join(_cell(test, stage, k) for k in ks)
            lines.append(f"  {name:<24}{_cell(validation, stage, 1):>12}    {cells}")
    return "\n".join(lines)


def shortfall(results):
    """A sentence for the user if the chosen embedder is below the features it began with, else "".

    Args:
        results: as in `closing_table`.
    """
    pairs = {}
    for classes in ("validation", "test"):
        found = results[classes]
        chosen, pooled = found.get("chosen") or found.get("last"), found.get("pooled_features")
        pairs[f"on the {classes} classes"] = (chosen or {}).get("1"), (pooled or {}).get("1")
    return below_pooled_features(pairs)


def below_pooled_features(pairs, show="{:.3f}".format):
    """A sentence for the user about where training made the embedder worse, "" if nowhere.

    Args:
        pairs: {where it was measured, in words: (Recall@1 of the embedder, that of the pooled
            features)}; None for what is not known.
        show: function from a recall to its text. Defaults to three digits.
    """
    worse = [
        f"{show(ours)} against {show(pooled)} {where}"
        for where, (ours, pooled) in pairs.items()
        if ours is not None and pooled is not None and ours < pooled
    ]
    if not worse:
        return ""
    return (
        "The chosen embedder finds less than the pooled features of its backbone, which need no "
        f"training: Recall@1 {', '.join(worse)}. More classes or more images of each would help, "
        "or a larger --embedding-size, a smaller --learning-rate, a backbone trained on similar "
        "pictures."
    )


def _cell(recalls, stage, k):
    if stage not in recalls:
        return f"{'':>8}"
    return f"{recalls[stage][str(k)]:8.3f}" if recalls[stage] else f"{'NaN':>8}"
