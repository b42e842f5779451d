"""Pictures and captions of the Natural Scenes Dataset, made into stimuli when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decode import content, hdf5
from decode.core import InputError, Stimulus, refusal
from decode.recordings import packed
from decode.recordings.json_files import parse_json
from decode.recordings.nsd import DESIGN, Design
from decode.recordings.tables import check_columns, read_words, whole_numbers

PICTURES = Path("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")
INFO = Path("nsddata/experiments/nsd/nsd_stim_info_merged.csv")
KEY = "imgBrick"
_PREFIX = "nsd/"

Captions = Mapping[int, tuple[str, ...]]


def uid(image: int) -> str:
    """`nsd/00041`: picture 41 of the stimulus file, counted from 0."""
    return f"{_PREFIX}{image:05d}"


class Pictures(Mapping[str, Stimulus]):
    """Every picture of the stimulus file as a stimulus, made on demand; no pixel is read here.

    A stimulus' texts are its captions that are not empty, when captions were given (`sources` are
    their files); `labels` holds nsd_id, coco_id and shared.
    """

    def __init__(
        self,
        file: Path,
        n: int,
        coco: np.ndarray,
        shared: frozenset[int],
        captions: Captions | None,
        sources: Sequence[Path] = (),
        *,
        outside: bool = False,
    ) -> None:
        self._outside = outside
        self._file, self._n, self._coco = file, n, coco
        self._shared, self._captions, self._sources = shared, captions, sources

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[str]:
        return (uid(i) for i in range(self._n))

    def __getitem__(self, name: str) -> Stimulus:
        number = name.removeprefix(_PREFIX)
        if not number.isdecimal() or uid(int(number)) != name or int(number) >= self._n:
            raise KeyError(name)
        image = int(number)
        labels: dict[str, object] = {
            "nsd_id": image,
            "coco_id": int(self._coco[image]),
            "shared": image in self._shared,
        }
        texts: tuple[str, ...] = ()
        if self._captions is not None:
            texts = tuple(w for w in self._captions.get(image, ()) if w)
            if not texts:
                files = " and ".join(str(path) for path in self._sources)
                raise InputError(
                    f"{files}: expected a caption of picture {image} (COCO {labels['coco_id']}), got "
                    "none; add the other COCO file (train or val) to data.captions or set it to null"
                )
        path = content.address(self._file, KEY, image, outside=self._outside)
        return Stimulus(name, "image", path=path, texts=texts, labels=labels)


def files_of(root: Path, captions: Sequence[Path]) -> list[Path]:
    """What all subjects share: the design, the pictures, what is known of them, and their captions."""
    return [root / DESIGN, root / PICTURES, root / INFO, *captions]


def read_pictures(
    root: Path, design: Design, captions: Sequence[Path], *, outside: bool = False
) -> Pictures:
    """The pictures below `root`, with captions from the given files, if any."""
    n = count_pictures(root, outside=outside)
    coco = read_coco(root, n)
    shared = frozenset(design.images[:, design.shared].ravel().tolist())
    words = read_captions(captions, coco) if captions else None
    return Pictures(root / PICTURES, n, coco, shared, words, captions, outside=outside)


def count_pictures(root: Path, *, outside: bool = False) -> int:
    """Rows of the stimulus file, whose values may lie in other files with `outside` only."""
    file = root / PICTURES
    try:
        return int(hdf5.dataset(file, KEY, outside=outside).shape[0])
    except FileNotFoundError as e:
        raise InputError(
            f"nsd: expected the pictures at {file}, found no such file; put it there"
        ) from e
    except OSError as e:
        raise InputError(
            f"{file}: expected the dataset {KEY!r} (picture, height, width, 3), got {e}; "
            "fetch the file again"
        ) from e


def check_images(images: np.ndarray, n: int, root: Path, design: Path) -> None:
    """InputError unless every picture (from 0) is in the stimulus file of `n` rows."""
    outside = images[images >= n]
    if len(outside):
        raise refusal(
            design,
            f"pictures in {root / PICTURES}, which has the rows 0 to {n - 1}",
            f"picture {outside[0]} ({len(np.unique(outside))} such)",
            "fetch the whole stimulus file",
        )


def read_coco(root: Path, n: int) -> np.ndarray:
    """COCO number (picture,) of each of the `n` pictures."""
    path = root / INFO
    named = ["nsdId", "cocoId"]
    table = read_words(path, separator=",", expected="the table of pictures", only=named)
    check_columns(path, table, named, "fetch it again")
    table = table[table["nsdId"].notna()]
    image, number = (whole_numbers(path, table, c) for c in named)
    coco = np.full(n, -1, np.int64)
    inside = image < n
    coco[image[inside]] = number[inside]
    if (coco < 0).any():
        raise InputError(
            f"{path}: expected a row per picture, got none for picture {int(np.argmin(coco))} of "
            f"{n}; fetch it again"
        )
    return coco


def read_captions(paths: Sequence[Path], coco: np.ndarray) -> dict[int, tuple[str, ...]]:
    """Captions of each picture (from 0) out of COCO's annotation files, or of one .npy table."""
    if len(paths) == 1 and paths[0].suffix == ".npy":
        table = _caption_table(paths[0], len(coco))
        return {i: tuple(" ".join(str(w).split()) for w in row) for i, row in enumerate(table)}
    said: dict[int, list[str]] = {}
    for path in paths:
        for row in _annotations(path):
            said.setdefault(int(row["image_id"]), []).append(" ".join(str(row["caption"]).split()))
    return {i: tuple(said.get(int(c), ())) for i, c in enumerate(coco)}


def _caption_table(path: Path, n: int) -> np.ndarray:
    if not path.is_file():
        raise InputError(
            f"data.captions: expected captions at {path}, found no such file; correct the path"
        )
    table = packed.open_npy("data.captions", path, ndim=2)
    if len(table) != n or table.dtype.kind != "U":
        raise InputError(
            f"{path}: expected text of shape ({n}, captions), got {table.shape} of {table.dtype}; "
            "give one row per picture of the stimulus file"
        )
    return table


def _annotations(path: Path) -> list[dict[str, Any]]:
    try:
        rows = parse_json(path.read_bytes())["annotations"]
        if rows and not {"image_id", "caption"} <= set(rows[0]):
            raise ValueError(f"annotations with the keys {sorted(rows[0])}")
    except FileNotFoundError as e:
        raise InputError(
            f"data.captions: expected COCO captions at {path}, found no such file; correct the path"
        ) from e
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise InputError(
            f"{path}: expected COCO captions (annotations with image_id and caption), got {e}; "
            "use captions_train2017.json and captions_val2017.json"
        ) from e
    return list(rows)
