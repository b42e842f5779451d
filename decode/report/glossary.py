"""One sentence per metric, for readers of a report."""

from __future__ import annotations

import re

EXACT = {
    "pixcorr": "Pearson correlation of all pixel values of the made and the shown picture.",
    "ssim": "Structural similarity of luminance, Gaussian window (sigma 1.5), resolution as in the "
    "configuration; other settings give other numbers.",
    "mse": "Mean squared difference of pixel values in [0, 1]; lower is better.",
    "accuracy": "Share of trials whose class was named right; chance is the most frequent class.",
    "auc": "Probability that a trial of the wanted class is scored above one of the other class.",
    "vector_correlation": "Pearson correlation of the predicted with the true feature vector.",
    "two_way_same_class": "Two-way identification by pixels among shown pictures of the same class "
    "only.",
}
PATTERNS = (
    (
        r"(.*_)?brain_top(\d+)$",
        "Given the stimulus, the right brain prediction is among the first {1}.",
    ),
    (r"(.*)_top(\d+)$", "The right stimulus is among the {1} most similar of the gallery."),
    (
        r"(.*)_brain_(\d+)way$",
        "Given the stimulus, the right prediction wins among {1}; exact, not sampled.",
    ),
    (
        r"(.*)_(\d+)way$",
        "The right stimulus wins among {1}; exact mean over all draws, not sampled.",
    ),
    (
        r"two_way_(.*)$",
        "Share of other shown pictures to which the made one is less similar than to its "
        "own, by {0} features.",
    ),
    (r"distance_(.*)$", "One minus the correlation of {0} features; lower is better."),
)


def meaning(metric: str) -> str:
    """What the metric says, "" for one that this page does not know."""
    if metric in EXACT:
        return EXACT[metric]
    for pattern, sentence in PATTERNS:
        found = re.match(pattern, metric)
        if found:
            return sentence.format(*[g or "" for g in found.groups()])
    return ""
