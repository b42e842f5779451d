"""Caption scores against their definitions, worked by hand or by brute force."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from scored import overall
from test_configs import composed
from worlds import PixelWorld, config

from decode.building import build
from decode.core import Generator, InputError, Media, Results, Stimulus, Tensors
from decode.metrics.captions import Captions, references
from decode.pipeline import execute
from decode.scoring.caption_clip import CaptionClip
from decode.scoring.captions import (
    Cider,
    align,
    bleu,
    bleu_contributions,
    bleu_counts,
    clipscore,
    meteor_exact,
    nearest,
    ref_clipscore,
    rouge_1,
    rouge_l,
    tokens,
)
from decode.scoring.feature_networks import slug
from decode.scoring.meteor import Meteor
from decode.scoring.text_networks import ClipText, Sentences
from decode.store import read_json
from decode.workshop import Run

WORDS = ("a", "dog", "cat", "on", "the", "mat", "red", "ball")


def sentences(rng: np.random.Generator, n: int, low: int = 3, high: int = 9) -> list[list[str]]:
    return [list(rng.choice(WORDS, rng.integers(low, high))) for _ in range(n)]


def corpus(n: int = 30, seed: int = 0) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Candidates that share about half their words with the first of three references."""
    rng = np.random.default_rng(seed)
    refs = [sentences(rng, 3) for _ in range(n)]
    made = [[w if rng.random() < 0.8 else str(rng.choice(WORDS)) for w in r[0]] for r in refs]
    return [m[: int(rng.integers(3, 8))] for m in made], refs


def test_tokens_are_those_of_the_treebank_without_punctuation() -> None:
    assert tokens("The dog's hat, isn't it?") == ["the", "dog", "'s", "hat", "is", "n't", "it"]
    assert tokens('A "T-shirt" - they’re 3.5 m; (wet)...') == [
        "a", "t-shirt", "they", "'re", "3.5", "m", "wet",
    ]  # fmt: skip
    assert tokens("?!") == []


# BLEU


def brute_bleu(made: list[list[str]], refs: list[list[list[str]]], order: int) -> float:
    """The definition, over the whole corpus."""
    product_of, long, reference = 1.0, 0, 0
    for n in range(1, order + 1):
        right = total = 0
        for c, r in zip(made, refs, strict=True):
            grams = [tuple(c[i : i + n]) for i in range(len(c) - n + 1)]
            total += len(grams)
            for gram in set(grams):
                most = max(
                    sum(tuple(x[i : i + n]) == gram for i in range(len(x) - n + 1)) for x in r
                )
                right += min(grams.count(gram), most)
        product_of *= right / total
    for c, r in zip(made, refs, strict=True):
        long += len(c)
        reference += min(sorted(len(x) for x in r), key=lambda n: abs(n - len(c)))
    brevity = math.exp(1 - reference / long) if long < reference else 1
    return brevity * product_of ** (1 / order)


def test_the_worked_example_of_the_bleu_paper() -> None:
    # Papineni et al. 2002: seven "the" against "the cat is on the mat" match twice.
    counts = bleu_counts(["the"] * 7, [["the", "cat", "is", "on", "the", "mat"]])
    assert counts[0] == 2
    assert bleu(counts)[0] == pytest.approx(2 / 7)
    assert bleu(counts)[3] == 0
    # Lengths 5 and 7 are equally close to 6: the shorter counts, so there is no penalty.
    close = bleu_counts(list("abcdef"), [list("abcde"), list("abcdefg")])
    assert close[-1] == 5


def test_bleu_of_a_corpus_and_of_sentences_equals_brute_force() -> None:
    made, refs = corpus()
    counts = np.stack([bleu_counts(c, r) for c, r in zip(made, refs, strict=True)])
    whole = bleu(counts.sum(axis=0))
    for order in (1, 2, 3, 4):
        assert whole[order - 1] == pytest.approx(brute_bleu(made, refs, order))
    for i in range(30):
        assert bleu(counts)[i, 0] == pytest.approx(brute_bleu(made[i : i + 1], refs[i : i + 1], 1))


@pytest.mark.parametrize("keep", [1.0, 0.6], ids=["long", "brief"])
def test_bleu_is_that_of_sacrebleu(keep: float) -> None:
    made, refs = corpus()
    made = [c[: max(1, int(keep * len(c)))] for c in made]
    whole = bleu(np.sum([bleu_counts(c, r) for c, r in zip(made, refs, strict=True)], axis=0))
    # its references come as streams: the first of every item, the second of every item, ...
    most = max(map(len, refs))
    streams = [[" ".join(r[k]) if k < len(r) else None for r in refs] for k in range(most)]
    for order in (1, 2, 3, 4):
        judge = BLEU(max_ngram_order=order, tokenize="none", smooth_method="none")
        found = judge.corpus_score([" ".join(c) for c in made], streams)
        assert whole[order - 1] == pytest.approx(found.score / 100, abs=1e-12)


@pytest.mark.parametrize("keep", [1.0, 0.6], ids=["long", "brief"])
def test_contributions_average_to_bleu_and_are_its_derivative(keep: float) -> None:
    made, refs = corpus(40)
    made = [c[: max(3, int(keep * len(c)))] for c in made]
    counts = np.stack([bleu_counts(c, r) for c, r in zip(made, refs, strict=True)])
    whole = bleu(counts.mean(axis=0))
    found = bleu_contributions(counts)
    assert found.mean(axis=0) == pytest.approx(whole)
    weight, step = np.ones(40), 1e-6
    for i in (0, 7, 23):
        weight[i] += step
        moved = bleu((weight[:, None] * counts).sum(axis=0) / weight.sum())
        assert (moved - whole) / step * 40 == pytest.approx(found[i] - whole, abs=1e-4)
        weight[i] = 1
    assert (bleu_contributions(np.tile(bleu_counts(["x"], [["y"]]), (3, 1))) == 0).all()


# ROUGE, METEOR, CIDEr


def test_rouge_1_is_the_best_f1_of_the_words() -> None:
    # Three of four words, two of them "the" of which the reference has two; then the other way round.
    assert rouge_1(["the", "the", "the", "cat"], [["the", "cat", "on", "the", "mat"]]) == (
        pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    )
    assert rouge_1(["mat", "the"], [["the", "mat"]]) == 1
    assert rouge_1([], [["a"]]) == 0
    made, refs = corpus()
    for c, several in zip(made, refs, strict=True):
        best = 0.0
        for r in several:
            left, common = list(r), 0
            for word in c:
                if word in left:
                    left.remove(word)
                    common += 1
            p, q = common / len(c), common / len(r)
            best = max(best, 2 * p * q / (p + q) if common else 0)
        assert rouge_1(c, several) == pytest.approx(best)


def test_rouge_is_that_of_rouge_score() -> None:
    judge = RougeScorer(["rouge1", "rougeL"], tokenizer=SimpleNamespace(tokenize=str.split))
    for c, several in zip(*corpus(), strict=True):
        found = [judge.score(" ".join(r), " ".join(c)) for r in several]
        assert rouge_1(c, several) == pytest.approx(max(f["rouge1"].fmeasure for f in found))
        precision = max(f["rougeL"].precision for f in found)
        recall = max(f["rougeL"].recall for f in found)
        # COCO weighs both with 1.2, the library with 1
        below = recall + 1.44 * precision
        want = 2.44 * precision * recall / below if below else 0
        assert rouge_l(c, several) == pytest.approx(want)


def test_rouge_equals_enumeration_and_a_worked_example() -> None:
    def longest(a: list[str], b: list[str]) -> int:
        for n in range(min(len(a), len(b)), 0, -1):
            parts = {tuple(x) for x in combinations(b, n)}
            if any(x in parts for x in combinations(a, n)):
                return n
        return 0

    rng = np.random.default_rng(1)
    for a, b in zip(sentences(rng, 30), sentences(rng, 30), strict=True):
        p, r = longest(a, b) / len(a), longest(a, b) / len(b)
        expected = (1 + 1.44) * p * r / (r + 1.44 * p) if p else 0
        assert rouge_l(a, [b]) == pytest.approx(expected)
    # Lin 2004: "police kill the gunman" shares 2 of 4 words in order with "police killed the gunman".
    assert (
        rouge_l(["police", "kill", "the", "gunman"], [["police", "killed", "the", "gunman"]])
        == 0.75
    )
    # Best precision and best recall come from different references.
    two = rouge_l(list("abcd"), [list("ab"), list("abcxyzuvw")])
    assert two == pytest.approx(2.44 * 0.75 * 1.0 / (1.0 + 1.44 * 0.75))
    assert rouge_l([], [["a"]]) == 0


def brute_align(a: list[str], b: list[str]) -> tuple[int, int]:
    """All ways of pairing equal words: most matches, then fewest chunks."""
    best = (0, 0)
    spots = [[j for j, y in enumerate(b) if x == y] + [None] for x in a]
    for choice in product(*spots):
        used = [j for j in choice if j is not None]
        if len(set(used)) < len(used):
            continue
        chunks = sum(
            j is not None and (i == 0 or choice[i - 1] is None or choice[i - 1] != j - 1)
            for i, j in enumerate(choice)
        )
        best = max(best, (len(used), -chunks))
    return best[0], -best[1]


def test_alignment_equals_enumeration() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        a = list(rng.choice(WORDS[:4], rng.integers(1, 7)))
        b = list(rng.choice(WORDS[:4], rng.integers(1, 7)))
        assert align(a, b) == brute_align(a, b)
    assert align([], ["a"]) == (0, 0)
    # Taking the first "a" for the first "a" would cost a chunk more.
    assert align(list("aba"), list("baa")) == brute_align(list("aba"), list("baa")) == (3, 2)


def write_wordnet(folder: Path) -> str:
    """nltk's folder with a database of WordNet's format: two nouns of one meaning."""
    home, folder = folder, folder / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for name in ("adj", "adv", "noun", "verb"):
        for file in (f"index.{name}", f"data.{name}", f"{name}.exc"):
            (folder / file).write_text("")
    for file in ("cntlist.rev", "index.sense"):
        (folder / file).write_text("")
    kinds = [f"{i:02d}\t{'noun' if i else 'adj'}.kind{i}\t{1 if i else 3}" for i in range(45)]
    (folder / "lexnames").write_text("\n".join(kinds) + "\n")
    (folder / "data.noun").write_text("00000000 05 n 02 dog 0 hound 0 000 | an animal  \n")
    lines = [f"{word} n 1 0 1 0 00000000  " for word in ("dog", "hound")]
    (folder / "index.noun").write_text("\n".join(lines) + "\n")
    return str(home)


def test_meteor_knows_stems_and_synonyms(tmp_path: Path) -> None:
    meteor = Meteor(write_wordnet(tmp_path / "wordnet"))
    made, written = ["the", "dog", "runs"], ["the", "hound", "running"]
    # All three words match in one run: a mean of 1, less half of (1 / 3) cubed.
    assert meteor(made, [written]) == pytest.approx(1 - 0.5 / 27)
    assert meteor(made, [["cat"], written]) == meteor(made, [written])
    # One of three words matches, exactly.
    assert meteor(["the", "cat", "sleeps"], [written]) == pytest.approx(1 / 3 * 0.5)
    assert meteor([], [written]) == 0
    assert meteor_exact(made, [written]) < meteor(made, [written])
    with pytest.raises(InputError, match=r"expected WordNet in .* nltk\.downloader"):
        Meteor(str(tmp_path / "none"))(made, [written])


def test_meteor_worked_by_hand() -> None:
    same = ["a", "dog", "on", "the", "mat"]
    assert meteor_exact(same, [same]) == pytest.approx(1 - 0.5 * (1 / 5) ** 3)
    # 3 of 4 words match 3 of 6, in two chunks: P 3/4, R 1/2.
    made, ref = ["the", "dog", "saw", "it"], ["the", "dog", "that", "ran", "away", "it"]
    mean = 0.75 * 0.5 / (0.9 * 0.75 + 0.1 * 0.5)
    assert meteor_exact(made, [ref]) == pytest.approx(mean * (1 - 0.5 * (2 / 3) ** 3))
    assert meteor_exact(made, [["x"], ref]) == meteor_exact(made, [ref])
    assert meteor_exact([], [ref]) == 0


def brute_cider(made: list[list[str]], refs: list[list[list[str]]]) -> list[float]:
    def grams(x: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1))

    found = []
    for c, r in zip(made, refs, strict=True):
        per_order = []
        for n in (1, 2, 3, 4):
            every = sorted({g for x in [c, *r] for g in grams(x, n)})
            seen = [sum(any(g in grams(x, n) for x in other) for other in refs) for g in every]
            idf = np.log(len(refs)) - np.log(np.maximum(seen, 1))
            vector = [np.array([grams(x, n)[g] for g in every]) * idf for x in [c, *r]]
            values = []
            for x, v in zip(r, vector[1:], strict=True):
                norm = np.linalg.norm(vector[0]) * np.linalg.norm(v)
                inner = np.minimum(vector[0], v) @ v / norm if norm else 0.0
                values.append(inner * math.exp(-((len(c) - len(x)) ** 2) / 72))
            per_order.append(np.mean(values))
        found.append(10 * float(np.mean(per_order)))
    return found


def test_cider_equals_brute_force() -> None:
    made, refs = corpus()
    cider = Cider(refs)
    found = [cider(c, r) for c, r in zip(made, refs, strict=True)]
    assert found == pytest.approx(brute_cider(made, refs))
    assert np.mean(found) > 2 * np.mean([cider(made[i], refs[i - 9]) for i in range(30)])
    own = Cider([[["a", "b", "c", "d"]], [["x"]]])
    assert own(["a", "b", "c", "d"], [["a", "b", "c", "d"]]) == pytest.approx(10)
    assert own(["a"], [["q", "r"]]) == 0


# CLIPScore


def test_clipscore_clips_and_takes_the_nearest_reference() -> None:
    picture, caption = np.eye(3)[[0, 0, 0]], np.array([[1.0, 0, 0], [0.6, 0.8, 0], [-1, 0, 0]])
    plain = clipscore(7 * picture, 3 * caption)
    assert plain == pytest.approx([2.5, 1.5, 0])
    refs = [np.array([[0, 1.0, 0], [0.8, 0.6, 0]]), np.array([[0, 2.0, 0]]), np.eye(3)]
    found = ref_clipscore(plain, caption, refs)
    assert found == pytest.approx([2 / (1 / 2.5 + 1 / 0.8), 2 / (1 / 1.5 + 1 / 0.8), 0])


# the metric


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Twenty scenes with two captions each, seen by two subjects."""
    from decode.simulation.scenes import draw, training_scenes

    shown, made = [], []
    for i, scene in enumerate(training_scenes(20, seed=0)):
        path = tmp_path / f"{i}.png"
        Image.fromarray(draw(scene)).save(path)
        both = (f"{scene.caption}.", f"there is {scene.caption}")
        shown.append(Stimulus(f"s{i}", "image", str(path), both))
        words = scene.caption.split()
        made.append(Media("text", " ".join(words[: 3 + i % 5])))
    trials = pd.DataFrame({"subject": np.repeat(["a", "b"], 20), "split": "test", "fold": 0})
    trials["stimulus"] = [s.uid for s in shown] * 2
    return Results(trials, {}, {}, shown * 2, made * 2)


def test_rows_average_to_the_scores_of_the_corpus(results: Results) -> None:
    rows = Captions()(results)
    made = [tokens(str(m.data)) for m in results.made or ()][:20]
    refs = [[tokens(t) for t in s.texts] for s in results.shown[:20]]
    mean = rows.groupby(["subject", "metric"])["value"].mean()["a"]
    for order in (1, 2, 3, 4):
        assert mean[f"bleu{order}"] == pytest.approx(brute_bleu(made, refs, order))
    assert mean["cider"] == pytest.approx(np.mean(brute_cider(made, refs)))
    assert set(rows["metric"]) == {
        "bleu1", "bleu2", "bleu3", "bleu4", "sentence_bleu4", "meteor_exact", "rouge_1", "rouge_l",
        "cider",
    }  # fmt: skip
    assert rows.groupby(["metric"]).size().eq(40).all()
    assert (rows.groupby("metric")["value"].mean() > rows.groupby("metric")["chance"].mean()).all()


def test_perfect_captions_win_and_chance_is_what_random_pairs_get(results: Results) -> None:
    clip = CaptionClip("package:tiny/clip", pretrained=None, prompt="{}", device="cpu")
    metric = Captions(clip=clip)
    perfect = [Media("text", str(s.text)) for s in results.shown]
    best = metric(Results(results.trials[:20], {}, {}, results.shown[:20], perfect[:20]))
    value, chance = (best.groupby("metric")[c].mean() for c in ("value", "chance"))
    for name in ("bleu1", "bleu4", "rouge_1", "rouge_l"):
        assert value[name] == pytest.approx(1)
    assert (value > chance).all()
    assert value["ref_clipscore_tiny_clip"] < value["clipscore_tiny_clip"]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(4):
        mixed = [perfect[i] for i in rng.permutation(20)]
        rows = metric(Results(results.trials[:20], {}, {}, results.shown[:20], mixed))
        draws.append(rows.groupby("metric")[["value", "chance"]].mean())
    for name in ("bleu1", "rouge_1", "rouge_l", "meteor_exact", "clipscore_tiny_clip"):
        gap = np.array([d.loc[name, "value"] - d.loc[name, "chance"] for d in draws])
        assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(4) + 0.01, name


def test_clip_is_named_after_what_it_is() -> None:
    assert CaptionClip().name == "clipscore"
    assert CaptionClip("package:tiny/clip", pretrained=None).name == "clipscore_tiny_clip"
    assert CaptionClip("ViT-L-14", pretrained="laion2b").name == "clipscore_vit_l_14_laion2b"


# similarity of texts


@pytest.fixture(scope="module")
def sentence_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers that knows the words of the scenes' captions, saved as transformers does."""
    from transformers import BertConfig, BertModel, BertTokenizer

    from decode.simulation.scenes import training_scenes

    words = {w for s in training_scenes(60, seed=0) for w in tokens(s.caption)}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: i for i, w in enumerate([*special, *sorted(words), "there", "is", "."])}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, pad_token_id=0, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sentences") / "Tiny-BERT_2"
    BertModel(config).eval().save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


def test_a_sentence_is_the_mean_of_its_own_tokens(sentence_folder: Path, results: Results) -> None:
    """Against the network itself, one text at a time, so that nothing is padded."""
    from transformers import AutoTokenizer, BertModel

    network = BertModel.from_pretrained(sentence_folder).eval()
    tokenise = AutoTokenizer.from_pretrained(sentence_folder)
    texts = [*(str(s.text) for s in results.shown[:6]), "", "red", "red " * 40]
    found = Sentences(str(sentence_folder), device="cpu", batch_size=4).texts(texts)
    assert len({len(tokenise(t)["input_ids"]) for t in texts}) > 3
    for text, row in zip(texts, found, strict=True):
        numbers = tokenise(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            hidden = network(**numbers).last_hidden_state[0]
        np.testing.assert_allclose(row, hidden.mean(0).numpy(), atol=1e-5)
    short = Sentences(str(sentence_folder), device="cpu", most=3).texts(["red", "red red red"])
    np.testing.assert_allclose(short[0], short[1], atol=1e-6)


def test_similarity_is_the_cosine_with_the_nearest_reference(
    sentence_folder: Path, results: Results
) -> None:
    rng = np.random.default_rng(0)
    made, refs = rng.normal(size=(4, 7)), [rng.normal(size=(n, 7)) for n in (1, 2, 3, 3)]
    for value, x, several in zip(nearest(made, refs), made, refs, strict=True):
        every = [x @ r / np.linalg.norm(x) / np.linalg.norm(r) for r in several]
        assert value == pytest.approx(max(every))
    networks = [
        ClipText("package:tiny/clip", pretrained=None, device="cpu"),
        Sentences(str(sentence_folder), device="cpu"),
    ]
    names = ["similarity_clip_tiny_clip", "similarity_tiny_bert_2"]
    metric = Captions(similar=networks)
    rows = metric(results)
    value = rows.groupby("metric")["value"].mean()
    for name, network in zip(names, networks, strict=True):
        mine = rows[(rows["metric"] == name) & (rows["subject"] == "b")]["value"].to_numpy()
        for row, media, shown in zip(mine, results.made[20:], results.shown[20:], strict=True):
            x = network.texts([str(media.data)])[0]
            both = network.texts(list(shown.texts))
            cosines = both @ x / np.linalg.norm(both, axis=1) / np.linalg.norm(x)
            assert row == pytest.approx(cosines.max(), abs=1e-5)
    perfect = [Media("text", str(s.text)) for s in results.shown]
    best = metric(Results(results.trials, {}, {}, results.shown, perfect)).groupby("metric")
    for name in names:
        assert best["value"].mean()[name] == pytest.approx(1, abs=1e-6)
        assert value[name] < 1 - 1e-3
        assert best["chance"].mean()[name] < 1 - 1e-3


def test_networks_are_named_after_what_they_are(tmp_path: Path, sentence_folder: Path) -> None:
    assert Sentences().name == "all_minilm_l6_v2"
    assert Sentences(str(sentence_folder)).name == "tiny_bert_2"
    assert ClipText(str(tmp_path / "../" / tmp_path.name), pretrained=None).name == slug(
        f"clip {tmp_path.name}"
    )
    assert ClipText().name == "clip_vit_l_14_quickgelu_openai"
    shipped = build(composed("+metric@metrics.words=captions_mindeye2")["metrics"]["words"])
    measures = shipped.measures()
    assert "all_minilm_l6_v2" in measures["similarity_all_minilm_l6_v2"].meaning
    assert [n.name for n in shipped.similar] == [
        "all_minilm_l6_v2", "clip_vit_b_32_quickgelu_openai", "clip_vit_l_14_quickgelu_openai",
    ]  # fmt: skip
    with pytest.raises(InputError, match="different names"):
        Captions(similar=[Sentences(), Sentences(most=9)])
    with pytest.raises(InputError, match="3 tokens or more"):
        Sentences(most=2)
    with pytest.raises(InputError, match="incomplete or of another kind"):
        Sentences(str(tmp_path), device="cpu").texts(["a"])


def test_what_cannot_be_scored_is_refused(results: Results) -> None:
    with pytest.raises(InputError, match="nothing was generated"):
        Captions()(Results(results.trials, {}, {}, results.shown))
    picture = [Media("mesh", torch.zeros(3, 3))] * 40
    with pytest.raises(InputError, match="made texts, got one of kind 'mesh' in row 0"):
        Captions()(Results(results.trials, {}, {}, results.shown, picture))
    with pytest.raises(InputError, match="captions of stimulus 'x'"):
        references(Stimulus("x", "image", texts=("", "!")))
    assert references(Stimulus("x", "image", texts=("A dog.",))) == ["A dog."]
    assert references(Stimulus("x", "image", texts=("", "b"))) == ["b"]
    empty = [Media("text", "")] * 40
    rows = Captions()(Results(results.trials, {}, {}, results.shown, empty))
    assert (rows["value"] == 0).all()


# in a run


SAYINGS = ("a red square", "a blue disc", "a green star", "two small stripes")


class CaptionWorld(PixelWorld):
    """PixelWorld with two captions of every picture, that tell its brightest corner."""

    def stimuli(self) -> Mapping[str, Stimulus]:
        made = {}
        for uid, s in super().stimuli().items():
            corners = np.asarray(Image.open(str(s.path)).resize((2, 2)), float).mean(axis=2)
            said = SAYINGS[int(corners.argmax())]
            made[uid] = replace(s, texts=(said, f"there is {said}"))
        return made


class SayNearest(Generator):
    """The text of the training stimulus with the nearest target."""

    makes = "text"
    needs = ("pixels",)

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        self.texts, self.gallery = [str(s.text) for s in shown], truth["pixels"].flatten(1)

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        nearest = torch.cdist(predicted["pixels"].flatten(1), self.gallery).argmin(dim=1)
        return [Media("text", self.texts[int(i)]) for i in nearest]


@pytest.mark.slow
def test_texts_go_through_a_whole_run(tmp_path: Path) -> None:
    metrics = {
        "captions": {"_target_": "decode.metrics.captions.Captions"},
        "retrieval": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"},
    }
    run = Run(
        config(
            tmp_path,
            data={"_target_": "test_captions.CaptionWorld", "root": str(tmp_path / "world")},
            generator={"_target_": "test_captions.SayNearest"},
            encoder={"_target_": "decode.encoders.ridge.Ridge", "_partial_": True},
            baselines={},
            objectives={},
            trainer={"_target_": "decode.training.Trainer", "epochs": 0},
            metrics=metrics,
        )
    )
    execute(run, until="report", force=(), say=lambda _: None)
    folder = run.of("reconstruct")[0].folder / "published-00"
    assert (folder / "decoder" / "00000.txt").read_text() in SAYINGS
    assert not (folder / "controls" / "mean_image").exists()
    summary = read_json(run.of("evaluate")[0].folder / "summary.json")
    found = overall(summary)
    own = found["decoder"]
    chance = own["rouge_l"]["chance"]
    assert own["bleu1"]["value"] > own["bleu1"]["chance"] + 0.2
    for control in ("oracle", "nearest_text"):
        assert found[control]["rouge_l"]["value"] > chance + 0.2
    assert abs(found["shuffled"]["rouge_l"]["value"] - chance) < 0.15
    assert (run.of("report")[0].folder / "report.html").is_file()


class Sings(SayNearest):
    """What no metric of texts can score."""

    makes = "audio"


def test_media_that_cannot_be_scored_are_refused(tmp_path: Path) -> None:
    changes = {"generator": {"_target_": "test_captions.Sings"}}
    with pytest.raises(InputError, match="a generator of image, which it scores, got one of audio"):
        Run(config(tmp_path, **changes))
