"""One sentence per metric, for readers of a report."""

from __future__ import annotations

import re

EXACT = {
    "pixcorr": "Pearson correlation of all pixel values of the made and the shown picture.",
    "ssim": "Structural similarity of luminance, Gaussian window (sigma 1.5), resolution as in the "
    "configuration; other settings give other numbers.",
    "ssim_legacy_columns": "Structural similarity of the columns of luminance, as older tables have it; "
    "not comparable with ssim.",
    "mse": "Mean squared difference of pixel values in [0, 1]; lower is better.",
    "accuracy": "Share of trials whose class was named right; chance is the most frequent class.",
    "balanced_accuracy": "Mean over the classes of the share of their trials that was named right; "
    "chance is one over their number, however many trials each has.",
    "auc": "Probability that a trial of the wanted class is scored above one of the other class.",
    "vector_correlation": "Pearson correlation of the predicted with the true feature vector.",
    "meteor_exact": "METEOR with exact word matches only; lower than the METEOR of published tables.",
    "meteor": "METEOR with stems and WordNet synonyms as nltk has it; other weights than published tables.",
    "rouge_1": "Words that the made and the nearest written caption have in common (F1).",
    "rouge_l": "Longest common subsequence of the made and the written captions.",
    "cider": "Agreement with the written captions in rare words and phrases (CIDEr-D), 0 to 10.",
    "sentence_bleu4": "BLEU-4 of each caption by itself, 0 where no four words match.",
    "grounding_iou": "Intersection over union of the written box with the one that people drew; 0 where "
    "no box was written.",
    "grounding_accuracy": "Share of written boxes that overlap enough with the one that people drew.",
    "two_way_same_class": "Two-way identification by pixels among shown pictures of the same class "
    "only.",
    "details_objects": "Objects that descriptions of the made and of the shown picture share (F1).",
    "details_attributes": "Attributes that descriptions of the made and of the shown picture share (F1).",
    "details_relations": "Relations that descriptions of the made and of the shown picture share (F1).",
    "details": "Mean of the three F1 scores of descriptions, objects and attributes weighted 5, relations 2.",
}
PATTERNS = (
    (
        r"brain_correlation_(.*)$",
        "Correlation, over test pictures, of measured responses with those that an encoding model "
        "expects of the made pictures; mean over voxels ({0}).",
    ),
    (
        r"bleu(\d)$",
        "Share of runs of 1 to {0} words that the written captions have too, over the whole test set.",
    ),
    (
        r"ref_clipscore(.*)$",
        "CLIPScore together with the likeness of the made and the nearest written caption.",
    ),
    (r"clipscore(.*)$", "Likeness of the made caption and the shown picture, 0 to 2.5."),
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
    (
        r"similarity_(.*)$",
        "Cosine of the made with the nearest written caption, by {0} embeddings.",
    ),
    (r"(?:random_)?lpips_(.*)$", "Learned perceptual distance over {0} features; lower is better."),
    (
        r"mean_iou_(.*)$",
        "Intersection over union of what {0} sees in the made and in the shown picture, averaged over "
        "the classes that either has.",
    ),
    (r"distance_(.*)$", "One minus the correlation of {0} features; lower is better."),
    (r"grounding_(iou|accuracy)_(.*)$", "grounding_{0} of the group of categories {1}."),
    (
        r"foreground_iou_(.*)$",
        "Intersection over union of all that {0} finds in the made and in the shown picture together, "
        "whatever it is.",
    ),
    (
        r"(instance|part)_iou_(.*)$",
        "Intersection over union of each {0} that {1} finds with its partner in the other picture; 0 "
        "without a partner.",
    ),
    (
        r"(instance|part)_ap_(.*)$",
        "COCO's average precision of each {0} mask that {1} finds in the made picture, with those of the "
        "shown one as truth.",
    ),
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
