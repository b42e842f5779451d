"""Drawn scenes: the same always, disjoint between training and test, and what their words say."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from PIL import Image

from decode.core import InputError
from decode.simulation import scenes
from decode.simulation.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PLACES,
    TEXTURES,
    Scene,
    as_stimulus,
    attributes,
    draw,
    training_scenes,
)

RED_DISC = Scene("disc", "red", 0.22, 0.5, 0.5, "plain", "stone")


def triple(scene: Scene) -> tuple[str, str, str]:
    return scene.kind, scene.colour, scene.background


def test_a_scene_is_the_same_picture_in_every_process() -> None:
    first, second = draw(RED_DISC), draw(replace(RED_DISC))
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert training_scenes(50, seed=3) == training_scenes(50, seed=3)
    assert training_scenes(50, seed=3) != training_scenes(50, seed=4)
    assert training_scenes(20, seed=3) == training_scenes(400, seed=3)[:20]


def test_training_and_test_combinations_never_meet() -> None:
    train = {triple(s) for seed in range(5) for s in training_scenes(600, seed=seed)}
    test = {triple(s) for seed in range(5) for s in scenes.test_scenes(200, seed=seed)}
    assert train.isdisjoint(test)
    assert len(train | test) == len(KINDS) * len(COLOURS) * len(BACKGROUNDS)
    assert 0.1 < len(test) / len(train | test) < 0.2


def test_every_pair_of_attribute_values_is_trained() -> None:
    """What is held out is the combination of three, not a value or a pair."""
    train = training_scenes(2000, seed=0)
    values = {"kind": KINDS, "colour": COLOURS, "texture": TEXTURES, "background": BACKGROUNDS}
    for one, other in combinations(values, 2):
        seen = {(getattr(s, one), getattr(s, other)) for s in train}
        assert seen == set(product(values[one], values[other])), (one, other)
    assert {s.place for s in train} == set(PLACES)


@pytest.mark.parametrize("part", [training_scenes, scenes.test_scenes])
def test_scenes_are_balanced_and_lie_inside_the_picture(part) -> None:
    drawn = part(800, seed=1)
    counts = np.unique([s.kind for s in drawn], return_counts=True)[1]
    assert counts.min() > 0.7 * counts.max()
    for s in drawn:
        assert s.size < s.x < 1 - s.size
        assert s.size < s.y < 1 - s.size


def test_caption_and_labels_agree() -> None:
    for s in training_scenes(300, seed=2):
        for name in ("kind", "colour", "size"):
            assert f" {s.labels[name]}" in s.caption
        assert s.texture in s.caption
        assert s.place.split()[-1] in s.caption
        assert ("wall" if s.background == "stone" else s.background) in s.caption
    captions = [s.caption for s in training_scenes(2000, seed=2)]
    facts = [tuple(s.labels.items()) for s in training_scenes(2000, seed=2)]
    assert len(set(captions)) == len(set(facts)), "two different scenes share a caption"
    corner = replace(RED_DISC, x=0.3, y=0.3, texture="stripes", background="sand", size=0.25)
    assert corner.caption == "a large red disc with stripes at the top left on the sand"


def test_the_picture_shows_what_the_labels_say() -> None:
    """The object is where x and y say, in its colour, and the background is elsewhere."""
    for x, y in product((0.3, 0.5, 0.7), repeat=2):
        scene = replace(RED_DISC, x=x, y=y, size=0.2)
        empty = draw(replace(RED_DISC, x=5.0)).astype(float)
        weight = np.abs(draw(scene) - empty).sum(-1)
        rows, columns = np.mgrid[:64, :64] + 0.5
        centre = [(weight * axis).sum() / weight.sum() / 64 for axis in (columns, rows)]
        np.testing.assert_allclose(centre, (x, y), atol=0.01)
        assert tuple(draw(scene)[int(64 * y), int(64 * x)]) == COLOURS["red"]
    area = {
        s: (draw(replace(RED_DISC, size=s)) != draw(replace(RED_DISC, x=5.0))).any(-1).sum()
        for s in (0.15, 0.25)
    }
    assert area[0.25] > 2 * area[0.15]


def test_every_value_changes_the_picture() -> None:
    choices = {"kind": KINDS, "colour": COLOURS, "texture": TEXTURES, "background": BACKGROUNDS}
    for name, values in choices.items():
        pictures = [draw(replace(RED_DISC, **{name: v})).astype(float) for v in values]
        for a, b in combinations(pictures, 2):
            assert np.abs(a - b).mean() > 1, name


def test_edges_are_smooth() -> None:
    """Moving by a tenth of a pixel changes edge pixels a little: there is anti-aliasing."""
    here, there = (draw(replace(RED_DISC, x=x)).astype(int) for x in (0.5, 0.5 + 0.3 / 64))
    changed = np.abs(here - there).max(-1)
    assert (changed > 0).sum() > 20
    assert changed.max() < 110
    large = Image.fromarray(draw(RED_DISC, size=256)).resize((64, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(large, float) - draw(RED_DISC)).mean() < 3


def test_attributes_code_the_scene() -> None:
    scene = replace(RED_DISC, size=0.27, x=1.0, y=0.0)
    code = dict(zip(ATTRIBUTES, attributes(scene), strict=True))
    assert {k for k, v in code.items() if v == 1} == {
        "kind=disc", "colour=red", "texture=plain", "background=stone", "size", "x",
    }  # fmt: skip
    assert code["y"] == -1
    table = np.stack([attributes(s) for s in training_scenes(500, seed=0)])
    assert np.abs(table).max() <= 1
    assert (table[:, :-3].sum(1) == 4).all()


def test_a_stimulus_has_picture_caption_and_labels(tmp_path) -> None:
    stimulus = as_stimulus(RED_DISC, part="test", seed=7, index=12, folder=tmp_path)
    assert stimulus.uid == "scene/test/7/00012"
    assert stimulus.text == RED_DISC.caption
    assert stimulus.labels["kind"] == "disc"
    np.testing.assert_array_equal(np.asarray(Image.open(stimulus.path)), draw(RED_DISC))
    assert [p.name for p in tmp_path.iterdir()] == ["test-7-00012.png"]
    again = as_stimulus(RED_DISC, part="test", seed=7, index=12, folder=tmp_path)
    assert again.digest() == stimulus.digest()


def test_an_unknown_value_is_named() -> None:
    with pytest.raises(InputError, match=r"scene kind: expected one of .*'disc'.* got 'disk'"):
        replace(RED_DISC, kind="disk")
