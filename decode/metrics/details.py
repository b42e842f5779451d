"""What a description of the made picture names, beside one of the shown picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from decode.core import Kind, Measure, Metric, Results, refusal
from decode.scoring.album import Album
from decode.scoring.describer import Describer
from decode.scoring.picture_scores import Resize
from decode.scoring.rows import scores, table
from decode.scoring.scene_graphs import SceneGraph, precision_recall_f1, scene_graph
from decode.scoring.scene_parser import SceneParser
from decode.scoring.text_networks import TextNetwork
from decode.scoring.wordnet import WordNet

KINDS = ("objects", "attributes", "relations")
NAMES = tuple(f"details_{kind}" for kind in KINDS)
# Of CAPTURE, in the order of the names.
WEIGHTS = (5, 5, 2)


class Details(Metric):
    """`details_objects`, `details_attributes`, `details_relations`: F1 of what is named in both
    pictures, from 0 to 1; `details`: their mean with the weights 5, 5 and 2.

    It follows the semantic part (H) of BASIC (Xia & Oztireli 2025, arXiv:2507.07993). Published: a
    language model that sees describes the made and the shown picture; each description becomes a scene
    graph of objects, attributes and relations; names are matched in three steps, when equal, when
    synonyms, by embeddings. The rest is that of CAPTURE (Dong et al. 2024, arXiv:2405.19092), which
    BASIC seems to use: the FACTUAL parser, the three steps and the weights; see `scene_graph` and
    `precision_recall_f1`. Weights of 5, 5 and 2 come near BASIC's totals without meeting them.

    Ours: the prompt's wording; pairs of the last step are one to one (`one_to_one: false` is CAPTURE's
    rule, by which several names of one thing all count); in the synonym step a name has to have whole
    words of the other, not letters; a short list of nouns that are no things; sentences end at full
    stops; no tagger checks that objects are nouns; where neither picture has anything of a kind, F1 is
    1, so that equal pictures have 1. Nothing could be checked against BASIC's program or published
    weights: numbers are for comparing runs with each other, not with BASIC's table, and those of other
    models, or without a step, are not comparable.

    `similar` embeds names (null: no third step). `wordnet`, the folder that `python -m nltk.downloader
    -d FOLDER wordnet` fills, gives base forms and synonyms (null: no second step, and "cats" are not
    "cat"). `first` resizes both pictures. Chance is the score against a shown picture drawn at random
    from those that agree in the columns `within`, the own one included. Raises InputError where the
    parser finds no object in any shown picture.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})

    def __init__(
        self,
        describer: Describer,
        parser: SceneParser,
        *,
        similar: TextNetwork | None = None,
        wordnet: str | None = None,
        one_to_one: bool = True,
        first: Resize | None = None,
        within: Sequence[str] = ("subject", "split"),
    ) -> None:
        self.describer, self.parser, self.similar = describer, parser, similar
        self.wordnet, self.one_to_one = wordnet, one_to_one
        self.first, self.within = first, tuple(within)
        self._words: WordNet | None = None

    def measures(self) -> Mapping[str, Measure]:
        told = {
            name: f"{kind.capitalize()} that descriptions of the made and of the shown picture share (F1)."
            for name, kind in zip(NAMES, KINDS, strict=True)
        }
        told["details"] = (
            "Mean of the three F1 scores of descriptions, objects and attributes weighted 5, relations 2."
        )
        return {name: Measure(text, ceiling="generator") for name, text in told.items()}

    def __call__(self, results: Results) -> pd.DataFrame:
        album = Album(results, self.within, self.first, False)
        if self.wordnet is not None and self._words is None:
            self._words = WordNet(self.wordnet, "details")
        made, shown = self._graphs(album)

        @cache
        def judged(row: int, picture: int) -> np.ndarray:
            return self._f1(made[row], shown[picture])

        def compare(kind: int) -> Callable[[np.ndarray], np.ndarray]:
            return lambda other: np.array([judged(i, int(p))[kind] for i, p in enumerate(other)])

        parts, every = [], np.arange(len(made))
        for kind, name in enumerate((*NAMES, "details")):
            own, chance = album.own_and_chance(compare(kind))
            parts.append(scores(results, name, every, own, chance=chance))
        return table(parts)

    def _graphs(self, album: Album) -> tuple[list[SceneGraph], list[SceneGraph]]:
        """The graphs of the made pictures, and those of the distinct shown ones."""
        n = len(album.own)

        def read(i: int) -> Tensor:
            one = album.read_made(np.array([i])) if i < n else album.read_shown(np.array([i - n]))
            return one[0]

        texts = self.describer(read, n + len(album.pictures))
        base = None if self._words is None else self._words.base
        graphs = [scene_graph(told, base) for told in self.parser(texts)]
        if not any(graph.objects for graph in graphs[n:]):
            raise refusal(
                "metric details",
                f"objects in the descriptions of {len(texts) - n} shown pictures",
                f"none by {self.parser.model!r}, which of {texts[n][:100]!r} made "
                f"{' '.join(self.parser.answers(texts[n]))[:100]!r}",
                "choose another parser or describer",
            )
        return graphs[:n], graphs[n:]

    def _f1(self, made: SceneGraph, shown: SceneGraph) -> np.ndarray:
        """F1 of the three kinds, and their weighted mean."""
        each = [
            precision_recall_f1(
                a,
                b,
                alike=None if self._words is None else self._words.alike,
                embed=None if self.similar is None else self.similar.texts,
                one_to_one=self.one_to_one,
            )[2]
            for a, b in zip(made.kinds, shown.kinds, strict=True)
        ]
        return np.array([*each, np.average(each, weights=WEIGHTS)])
