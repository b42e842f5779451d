"""What descriptions share: matching against enumeration, and the metric with networks that really write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_captions import write_wordnet
from text_twins import tiny_describer, tiny_llava, tiny_parser

from decode.core import InputError, Media, Results, Stimulus
from decode.metrics.details import NAMES, Details
from decode.scoring.describer import Describer
from decode.scoring.picture_scores import Resize
from decode.scoring.scene_graphs import facts, precision_recall_f1, scene_graph
from decode.scoring.scene_parser import TASK, SceneParser, sentences
from decode.scoring.wordnet import WordNet

N, LONGEST, ANSWER = 6, 8, 16
WORDS = ["cat", "cats", "dog", "mat", "red cat", "tree"]
ANSWERS = [
    ["( star , is , red )", "( star , is , red )", "( broken ,"],
    ["( disc , is , blue )", "( star , is , red )", "( star , near , disc )"],
    ["( star , near , disc )", "( disc )"],
    ["( disc , near , star )", "( disc , is , 2 )", "( scene , is , blue )"],
]


class Words:
    """Embeds a phrase by its letters, those of later words more, so that the order of words counts."""

    name = "words"

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), 26))
        for vector, text in zip(vectors, texts, strict=True):
            for place, word in enumerate(text.split(), start=1):
                for letter in word:
                    vector[ord(letter) - ord("a")] += place
        return vectors


def cosine(a: str, b: str) -> float:
    x, y = Words().texts([a, b])
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def letter(a: str, b: str) -> bool:
    return a[0] == b[0]


# facts and graphs


def test_facts_are_whole_brackets_of_three() -> None:
    written = (
        "( Cat , is , black ) , (cat, sit  on, mat), ( a , b ) ( dog ) ( , is , red ) ( mat , is"
    )
    assert facts(written) == [("cat", "is", "black"), ("cat", "sit on", "mat"), ("dog",)]
    for broken in ("", "no graph at all", ")) , ((", "( a , b , c , d )", "( )", "(((,,,)))"):
        assert facts(broken) == []


def test_a_graph_counts_each_name_once() -> None:
    told = [("cats", "is", "black"), ("cat", "is", "black"), ("dog", "is", "black")]
    told += [("cat", "is", "2"), ("cat", "is", "full of joy"), ("image", "show", "cat"), ("mat",)]
    plural = scene_graph(told)
    assert plural.objects == (("cats",), ("cat",), ("dog",), ("mat",))
    one = scene_graph(told, lambda name, kind: name.rstrip("s") if kind == "n" else name)
    assert one.objects == (("cat",), ("dog",), ("mat",))
    assert one.attributes == (("black",), ("black",))  # of the cat and of the dog
    assert one.relations == (("image", "show", "cat"),)


def test_sentences_end_at_stops() -> None:
    assert sentences(" A cat.  Is it 2.5 m? It is! . ok") == [
        "A cat.",
        "Is it 2.5 m?",
        "It is!",
        "ok",
    ]
    assert sentences("") == []


# matching


def brute(a: Sequence[Any], b: Sequence[Any], worth: Any) -> tuple[float, list[Any], list[Any]]:
    """The best one-to-one matching by enumeration: its worth, and what it leaves of both."""
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    best: tuple[float, list[tuple[int, int]]] = (0.0, [])
    for chosen in permutations(range(len(large)), len(small)):
        linked = list(enumerate(chosen))
        if small is b and a is not b:
            linked = [(j, i) for i, j in linked]
        linked = [(i, j) for i, j in linked if worth(a[i], b[j]) > 0]
        total = sum(worth(a[i], b[j]) for i, j in linked)
        if total > best[0]:
            best = total, linked
    i, j = {p for p, _ in best[1]}, {q for _, q in best[1]}
    left = [x for k, x in enumerate(a) if k not in i]
    return best[0], left, [y for k, y in enumerate(b) if k not in j]


def by_enumeration(a: Sequence[Any], b: Sequence[Any], *, soft: bool) -> tuple[float, float, float]:
    n, left, right = brute(a, b, lambda x, y: float(x == y))
    if soft:
        n += brute(left, right, lambda x, y: max(cosine(" ".join(x), " ".join(y)), 0))[0]
    precision, recall = n / len(a), n / len(b)
    return precision, recall, 2 * precision * recall / (precision + recall) if n else 0.0


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_matching_equals_enumeration(soft: bool, size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(15):
        made, shown = (
            [tuple(rng.choice(WORDS, size)) for _ in range(rng.integers(1, 5))] for _ in "ab"
        )
        found = precision_recall_f1(made, shown, embed=Words().texts if soft else None)
        assert found == pytest.approx(by_enumeration(made, shown, soft=soft))


def test_steps_worked_by_hand() -> None:
    made, shown = [("cat",), ("cow",), ("dog",)], [("cat",), ("car",)]
    assert precision_recall_f1(made, shown) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    # the equal cat is taken before a like one, so that the cow is left for the car
    assert precision_recall_f1(made, shown, alike=letter) == pytest.approx((2 / 3, 1, 4 / 5))
    assert precision_recall_f1(made[::-1], shown[::-1], alike=letter)[2] == pytest.approx(4 / 5)
    # the equal ones are taken even where other pairs would be more
    like = {("ca", "ca"), ("ca", "cz"), ("cb", "ca")}
    found = precision_recall_f1(
        [("ca",), ("cb",)], [("ca",), ("cz",)], alike=lambda x, y: (x, y) in like
    )
    assert found == (1 / 2, 1 / 2, 1 / 2)
    # a like pair must not keep another from its only partner
    ends = precision_recall_f1([("ab",), ("a",)], [("ax",), ("bx",)], alike=lambda x, y: y[0] in x)
    assert ends == (1, 1, 1)


def test_faults_cost() -> None:
    relation, swapped = [("cat", "on", "mat")], [("mat", "on", "cat")]
    assert precision_recall_f1(swapped, relation)[2] == 0
    assert precision_recall_f1(swapped, relation, embed=Words().texts)[2] < 0.99
    assert precision_recall_f1(swapped, relation, alike=lambda x, y: x == y)[2] == 0
    again = precision_recall_f1([("cat",), ("cat",)], [("cat",)], embed=Words().texts)
    assert again == pytest.approx((1 / 2, 1, 2 / 3))
    near = cosine("cats", "cat")
    made = [("cats",), ("cats",)]
    assert precision_recall_f1(made, [("cat",)], embed=Words().texts)[:2] == pytest.approx(
        (near / 2, near)
    )
    # CAPTURE's rule lets both be near the one cat
    both = precision_recall_f1(made, [("cat",)], embed=Words().texts, one_to_one=False)
    assert both[:2] == pytest.approx((near, near))


def test_nothing_agrees_with_nothing_only() -> None:
    for embed in (None, Words().texts):
        assert precision_recall_f1([], [], embed=embed) == (1, 1, 1)
        assert precision_recall_f1([("cat",)], [], embed=embed) == (0, 0, 0)
        assert precision_recall_f1([], [("cat",)], embed=embed) == (0, 0, 0)
    for one_to_one in (True, False):
        opposite = precision_recall_f1(
            [("a",)], [("b",)], embed=lambda _: np.array([[1.0], [-1.0]]), one_to_one=one_to_one
        )
        assert opposite == (0, 0, 0)


def test_wordnet_knows_base_forms_and_synonyms(tmp_path: Path) -> None:
    words = WordNet(write_wordnet(tmp_path / "wordnet"), "details")
    assert words.base("brown dogs", "n") == "brown dog"
    assert words.base("unicorns", "n") == "unicorns"
    assert words.alike("dog", "hound")
    assert words.alike("dog", "brown dog")
    assert words.alike("brown dog", "dog")
    assert not words.alike("dog", "hotdog")
    assert not words.alike("unicorn", "griffin")
    told = [("dogs", "chase", "cat")], [("hound", "chase", "cat")]
    made, shown = (scene_graph(t, words.base) for t in told)
    for a, b in zip(made.kinds, shown.kinds, strict=True):
        assert precision_recall_f1(a, b, alike=words.alike) == (1, 1, 1)
    with pytest.raises(InputError, match=r"details\.wordnet: expected WordNet in .* nltk\.down"):
        WordNet(str(tmp_path / "none"), "details")


# the metric


def block(rng: np.random.Generator) -> np.ndarray:
    return np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [block(rng) for _ in range(N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: list[np.ndarray]) -> Path:
    """A LLaVA, and a T5 that knows answers to the sentences that it writes about the pictures."""
    place = tmp_path_factory.mktemp("details")
    torch.manual_seed(1)
    tiny_describer(place / "llava")
    texts = describer(place)(lambda i: picture(pictures[i]), N)
    told = dict.fromkeys(s for text in texts for s in sentences(text))
    tiny_parser(place / "t5", {TASK + s: ANSWERS[i % len(ANSWERS)] for i, s in enumerate(told)})
    return place


def describer(folder: Path, **changes: Any) -> Describer:
    knobs = {"tokens": LONGEST, "precision": "float32", "device": "cpu"}
    return Describer(str(folder / "llava"), **(knobs | changes))


def parser(folder: Path, **changes: Any) -> SceneParser:
    return SceneParser(str(folder / "t5"), **({"tokens": ANSWER, "device": "cpu"} | changes))


def picture(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


@pytest.fixture
def results(tmp_path: Path, pictures: list[np.ndarray]) -> Results:
    """Two subjects; the first picture is right, others are of a neighbour."""
    shown = []
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        shown.append(Stimulus(f"s{i}", "image", str(tmp_path / f"{i}.png")))
    made = [Media("image", picture(pictures[i])) for i in (0, 2, 1, 4, 5, 5)]
    trials = pd.DataFrame({"subject": list("aaaabb"), "split": "test", "fold": 0})
    trials["stimulus"] = [s.uid for s in shown]
    return Results(trials, {}, {}, shown, made)


def words_by_hand(folder: Path, pixels: np.ndarray) -> str:
    """What LLaVA says about a picture, a word at a time."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    network = LlavaForConditionalGeneration.from_pretrained(folder / "llava").eval()
    read = AutoProcessor.from_pretrained(folder / "llava")
    text = "USER: <image>\nDescribe this image in detail. ASSISTANT:"
    inputs = read(images=Image.fromarray(pixels), text=text, return_tensors="pt")
    words, begun = inputs["input_ids"], inputs["input_ids"].shape[1]
    with torch.no_grad():
        for _ in range(LONGEST):
            scores = network(input_ids=words, pixel_values=inputs["pixel_values"]).logits
            words = torch.cat([words, scores[:, -1:].argmax(-1)], dim=1)
            if words[0, -1] == network.generation_config.eos_token_id:
                break
    return str(read.tokenizer.decode(words[0, begun:], skip_special_tokens=True))


@pytest.fixture(scope="module")
def said(folder: Path, pictures: list[np.ndarray]) -> list[str]:
    return [words_by_hand(folder, p) for p in pictures]


@cache
def answer_by_hand(folder: Path, sentence: str) -> str:
    """What T5 answers to a sentence, a word at a time."""
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    network = T5ForConditionalGeneration.from_pretrained(folder / "t5").eval()
    read = AutoTokenizer.from_pretrained(folder / "t5")
    asked = read(f"Generate Scene Graph: {sentence}", return_tensors="pt")["input_ids"]
    words = torch.zeros((1, 1), dtype=torch.long)
    with torch.no_grad():
        while len(words[0]) <= ANSWER and words[0, -1] != network.config.eos_token_id:
            scores = network(input_ids=asked, decoder_input_ids=words).logits
            words = torch.cat([words, scores[:, -1:].argmax(-1)], dim=1)
    return str(read.decode(words[0], skip_special_tokens=True))


def kinds_by_hand(folder: Path, text: str) -> list[list[tuple[str, ...]]]:
    """Objects, attributes and relations in a description without commas but those of its graph."""
    objects, owned, relations = set(), set(), set()
    for sentence in [s.strip() for s in text.replace(" . ", " .\n").split("\n") if s.strip(" .")]:
        for part in answer_by_hand(folder, sentence).split(")")[:-1]:
            triple = part.rpartition("(")[2].strip().split(" , ")
            if len(triple) == 1:
                objects.add((triple[0],))
            if len(triple) != 3:
                continue
            objects.add((triple[0],))
            if triple[1] != "is":
                objects.add((triple[2],))
                relations.add(tuple(triple))
            elif triple[2] != "2":
                owned.add((triple[0], triple[2]))
    objects.discard(("scene",))
    return [sorted(objects), [(a,) for _, a in sorted(owned)], sorted(relations)]


def f1_by_hand(made: list[Any], shown: list[Any], soft: bool) -> np.ndarray:
    each = []
    for a, b in zip(made, shown, strict=True):
        each.append(by_enumeration(a, b, soft=soft)[2] if a and b else float(not a and not b))
    return np.array([*each, (5 * each[0] + 5 * each[1] + 2 * each[2]) / 12])


@pytest.mark.parametrize("soft", [False, True])
def test_scores_and_chance_are_those_of_the_networks_own_words(
    folder: Path, results: Results, pictures: list[np.ndarray], said: list[str], soft: bool
) -> None:
    metric = Details(
        describer(folder, batch_size=4), parser(folder, beams=1), similar=Words() if soft else None
    )
    rows = metric(results)
    assert list(dict.fromkeys(rows["metric"])) == [*NAMES, "details"]
    assert set(metric.measures()) == {*NAMES, "details"}
    assert metric.describer(lambda i: picture(pictures[i]), N) == said
    for sentence in {s for text in said for s in sentences(text)}:
        assert metric.parser.answers(sentence) == [answer_by_hand(folder, sentence)]
    assert TASK == "Generate Scene Graph: "
    graphs = [kinds_by_hand(folder, text) for text in said]
    assert len({str(g) for g in graphs}) > 2
    made = [graphs[i] for i in (0, 2, 1, 4, 5, 5)]
    every = np.array([[f1_by_hand(a, b, soft) for b in graphs] for a in made])
    for kind, (name, part) in enumerate(rows.groupby("metric", sort=False)):
        np.testing.assert_allclose(part["value"], np.diag(every[:, :, kind]), err_msg=str(name))
        chance = [every[:4, :4, kind].mean()] * 4 + [every[4:, 4:, kind].mean()] * 2
        np.testing.assert_allclose(part["chance"], chance, err_msg=str(name))
    assert (rows[rows["trial"].isin([0, 5])]["value"] == 1).all()
    assert rows[rows["metric"] == "details"]["value"].nunique() > 2
    # all is known by now: a second call opens nothing
    metric.describer.model = metric.parser.model = "/nowhere"
    pd.testing.assert_frame_equal(metric(results), rows)


def test_each_picture_and_each_sentence_is_read_once(
    folder: Path, pictures: list[np.ndarray]
) -> None:
    calls: list[int] = []
    network = describer(folder, batch_size=2)
    write = network._write

    def counted(*given: Any) -> list[str]:
        calls.append(len(given[-1]))
        return write(*given)

    network._write = counted  # type: ignore[method-assign]
    several = [pictures[i] for i in (0, 1, 0, 2, 1)]
    texts = network(lambda i: picture(several[i]), 5)
    assert sum(calls) == 3
    assert texts[:2] == [texts[2], texts[4]]
    assert describer(folder, batch_size=1)(lambda i: picture(several[i]), 5) == texts
    asked = parser(folder, batch_size=2)
    assert asked(["a red star . a disc", "a disc"])[0][-1:] == asked(["a disc"])[0][-1:]
    assert asked([""]) == [[]]


def test_synonyms_and_sizes(folder: Path, results: Results, tmp_path: Path) -> None:
    wordnet = write_wordnet(tmp_path / "wordnet")
    small = [Media("image", torch.rand(3, 32, 32)) for _ in range(N)]
    other = Results(results.trials, {}, {}, results.shown, small)
    metric = Details(
        describer(folder, precision="bfloat16"), parser(folder), similar=Words(), wordnet=wordnet,
        first=Resize(16), one_to_one=False,
    )  # fmt: skip
    rows = metric(other)
    assert rows["value"].between(0, 1).all()
    assert rows["chance"].between(0, 1).all()


# what cannot be scored


def test_what_cannot_be_scored_is_refused(folder: Path, results: Results, tmp_path: Path) -> None:
    metric = Details(describer(folder), parser(folder))
    with pytest.raises(InputError, match="nothing was generated"):
        metric(Results(results.trials, {}, {}, results.shown))
    texts = [Media("text", "a disc")] * N
    with pytest.raises(InputError, match="got one of kind 'text' in row 0"):
        metric(Results(results.trials, {}, {}, results.shown, texts))
    metric = Details(describer(folder), parser(folder), wordnet=str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"details\.wordnet: expected WordNet in .*/none/corpora"):
        metric(results)
    torch.manual_seed(0)
    tiny_parser(tmp_path / "t5", {TASK + "a": ["nothing", "( broken ,"]}, steps=30)
    with pytest.raises(
        InputError, match=r"expected objects in the descriptions of 6 shown .*broken"
    ):
        Details(describer(folder), parser(tmp_path))(results)


def test_networks_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def read(i: int) -> torch.Tensor:
        return torch.rand(3, 16, 16)

    tiny_llava(tmp_path / "llava")
    with pytest.raises(InputError, match=r"expected a chat template .* found none"):
        describer(tmp_path)(read, 1)
    with pytest.raises(InputError, match="found none there; correct the path"):
        Describer("/nowhere/llava")(read, 1)
    with pytest.raises(InputError, match="of another kind of model"):
        SceneParser(str(folder / "llava"))(["a disc"])
    for name, change in (("llava", describer), ("t5", parser)):
        place = tmp_path / "gaps" / name
        place.mkdir(parents=True)
        for file in (folder / name).iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        weights = load_file(place / "model.safetensors")
        lacking = next(k for k in weights if "q_proj.weight" in k or "SelfAttention.q" in k)
        del weights[lacking]
        save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
        network: Any = change(tmp_path / "gaps")
        with pytest.raises(InputError, match="expected weights for every layer, got none for 1"):
            network(read, 1) if name == "llava" else network(["a disc"])
    weights = load_file(folder / "llava" / "model.safetensors")
    (last,) = (k for k in weights if "lm_head" in k)
    weights[last] *= torch.nan
    save_file(weights, tmp_path / "gaps/llava/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="a score for each word, got NaN; set precision"):
        describer(tmp_path / "gaps")(read, 1)


def test_arguments_are_checked() -> None:
    with pytest.raises(InputError, match="expected a prompt, and tokens"):
        Describer(prompt=" ")
    with pytest.raises(InputError, match="tokens and batch_size of 1 or more"):
        Describer(tokens=0)
    with pytest.raises(InputError, match="precision: expected one of"):
        Describer(precision="half")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beams, tokens and batch_size of 1 or more"):
        SceneParser(beams=0)
