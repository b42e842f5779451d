"""Generic Object Decoding: five people look at 1,200 training and 50 test objects, and imagine them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import Facts, InputError, Recording, Stimulus, Truth, refusal
from decode.pictures import StimuliOnDemand
from decode.progress import progress
from decode.recordings import packed
from decode.recordings.bdata import BData, read_bdata

NAME = "god"
CONDITIONS = {1: "train", 2: "test", 3: "imagery"}
REGIONS = ("V1", "V2", "V3", "V4", "LOC", "FFA", "PPA")
# Parts of the packed pictures -> their word in the names of the tables of labels.
PARTS = {"train": "training", "test": "testing"}
ENDINGS = (".JPEG", ".jpg", ".jpeg", ".JPG", ".png")


class GOD:
    """Responses of visual cortex to pictures of objects, in either of two layouts.

    `layout` is "bdpy", "mind-vis", or null: what lies in `root`.

    *bdpy*: `Subject1.h5` ... with the metadata keys `VoxelData`, `DataType` (1 train, 2 test, 3
    imagery), `Run`, `Label` or `stimulus_id` (1518878.005958 is picture 5958 of synset n01518878) and
    `ROI_*`; pictures as `n01518878_5958.JPEG` anywhere below `root/images`, which the authors send on
    request. One recording per run: 24 of training (1,200 trials), 35 of test (50 pictures x 35) and, with
    `imagery`, 20 of imagery, whose 500 trials get split "" and condition "imagery". Values in other files
    are read with `outside` only.

    *mind-vis*: `sbj_1.npz` ... with `arr_0` (1,200 training trials), `arr_1` (1,750 single test
    trials), `arr_2` (their 50 means), `arr_3` (picture of each training trial, from 0) and a boolean
    mask per region; `pictures` is its picture file with `train_images` and `test_images`. `test`
    chooses "single" trials or the published "averaged" ones. Whether single trials are ordered by
    picture or by round is not documented: it is found by comparison with the means. Runs and imagery
    are not in these files. Where `imagenet_training_label.csv` and `imagenet_testing_label.csv` are
    there, stimuli are labelled with their synset.

    `roi` chooses the voxels; VC has 3444, 4979, 5355, 4656 and 6237 for subjects 1 to 5 (3 mm). The
    unit is that of the files. Coordinates in the bdpy files are taken to be millimetres, which has
    not been checked on the data. Raises InputError for missing files, keys and pictures.
    """

    facts: ClassVar[Facts] = Facts(
        citation="Horikawa & Kamitani (2017), Nature Communications 8:15037",
        licence="see figshare 7387130; pictures: terms of ImageNet",
        modality="fmri",
        n_subjects=5,
        sfreq=1.0,
        n_stimuli=1250,
        n_trials=14750,
    )

    def __init__(
        self,
        root: str,
        *,
        cache: str,
        layout: Literal["bdpy", "mind-vis"] | None = None,
        roi: str = "VC",
        imagery: bool = False,
        test: Literal["single", "averaged"] = "single",
        pictures: str = "images_256.npz",
        outside: bool = False,
    ) -> None:
        self.root, self.cache, self.outside = Path(root), Path(cache), outside
        self._names: list[str] = []
        self.layout = _layout(self.root, layout)
        self.roi, self.imagery, self.test, self.pictures = roi, imagery, test, pictures
        if test not in ("single", "averaged"):
            raise refusal("data.test", "'single' or 'averaged'", f"{test!r}", "choose one")
        if self.layout == "bdpy" and test == "averaged":
            raise refusal(
                "data.test",
                "'single', which is what the bdpy files hold",
                "'averaged'",
                "set data.test=single",
            )
        if self.layout == "mind-vis" and imagery:
            raise refusal(
                "data.imagery",
                "false, as mind-vis files hold no imagery",
                "true",
                "set data.imagery=false",
            )
        pattern = "Subject*.h5" if self.layout == "bdpy" else "sbj_*.npz"
        self.subjects: tuple[str, ...] = tuple(sorted(p.stem for p in self.root.glob(pattern)))

    def recordings(self, subject: str) -> Iterator[Recording]:
        packed.check_subject(NAME, subject, self.subjects, self.root)
        if self.layout == "bdpy":
            yield from _runs(self._bdata(subject), subject, self.roi, self.imagery)
        else:
            yield self._npz(subject)

    def only(self, subjects: Sequence[str]) -> GOD:
        """Without the other subjects, whose files need not be whole."""
        other = packed.narrowed(self, subjects)
        other._names = []
        return other

    def stimuli(self) -> Mapping[str, Stimulus]:
        if self.layout == "bdpy":
            return self._picture_files()
        return self._packed_pictures()

    def files(self, subject: str) -> Iterable[Path]:
        if self.layout == "bdpy":
            pictures = packed.files_below(self.root / "images").values()
            return [self.root / f"{subject}.h5", *(p for p in pictures if p.suffix in ENDINGS)]
        tables = [f"imagenet_{word}_label.csv" for word in PARTS.values()]
        return [self.root / name for name in (f"{subject}.npz", self.pictures, *tables)]

    def truth(self, subject: str) -> Truth | None:
        return None

    def _bdata(self, subject: str) -> BData:
        return read_bdata(NAME, self.root / f"{subject}.h5", outside=self.outside)

    def _picture_files(self) -> Mapping[str, Stimulus]:
        folder = self.root / "images"
        there = {p.stem: p for p in packed.files_below(folder).values() if p.suffix in ENDINGS}
        if not self._names:
            labels = [_labels(self._bdata(s)) for s in progress(self.subjects, f"{NAME} labels")]
            self._names = [_picture_name(x) for x in np.unique(np.concatenate(labels))]

        def make(uid: str) -> Stimulus:
            name = uid.rsplit("/", 1)[1]
            if name not in there:
                raise InputError(
                    f"{NAME}: expected {name}.JPEG below {folder}, found {len(there)} other pictures; "
                    "ask the authors for the stimuli and put them there"
                )
            synset = name.split("_")[0]
            return Stimulus(uid, "image", path=str(there[name]), labels={"synset": synset})

        return StimuliOnDemand([f"{NAME}/{n}" for n in self._names], make)

    def _packed_pictures(self) -> Mapping[str, Stimulus]:
        npz = packed.Npz(NAME, self.root / self.pictures)
        folder = self.cache / packed.stamp(npz.path)
        counts = {part: npz.header(f"{part}_images")[0][0] for part in PARTS}
        synsets = {
            part: _synsets(self.root / f"imagenet_{word}_label.csv", counts[part])
            for part, word in PARTS.items()
        }

        def make(uid: str) -> Stimulus:
            _, part, number = uid.split("/")
            path = folder / part / f"{number}.png"
            if not path.is_file():
                _unpack_all(npz, part, folder / part)
            known = synsets[part]
            labels = {"synset": known[int(number)]} if known else {}
            return Stimulus(uid, "image", path=str(path), labels=labels)

        return StimuliOnDemand([_uid(p, i) for p, n in counts.items() for i in range(n)], make)

    def _npz(self, subject: str) -> Recording:
        npz = packed.Npz(NAME, self.root / f"{subject}.npz")
        mask = np.asarray(npz.read(self.roi), bool)
        train, single, means = (_trials(npz, f"arr_{i}", mask) for i in range(3))
        shown, tested = npz.read("arr_3").astype(int), np.arange(len(means))
        if len(shown) != len(train):
            raise refusal(
                f"{npz.path}, key 'arr_3'",
                f"a picture for each of the {len(train)} training trials",
                len(shown),
                "take all files from one release",
            )
        pictures = packed.Npz(NAME, self.root / self.pictures)
        for part, ids in (("train", shown), ("test", tested)):
            n = pictures.header(f"{part}_images")[0][0]
            packed.check_ids(NAME, f"{pictures.path}, {part}_images", ids, n, "pictures")
        if self.test == "single":
            tested = single_order(single, means, npz.path)
        test = single if self.test == "single" else means
        uids = [_uid("train", int(i)) for i in shown] + [_uid("test", int(i)) for i in tested]
        split = np.repeat(["train", "test"], [len(train), len(test)])
        events = packed.beta_events(uids, split, repeat=packed.count_repeats(uids))
        signal = np.concatenate([train, test]).astype(np.float32)
        masks = {r: np.asarray(npz.read(r), bool)[mask] for r in REGIONS if r in npz.names()}
        channels = packed.voxels(signal.shape[1], packed.first_region(masks, signal.shape[1]))
        return Recording(subject, "", "", "fmri", signal, 1.0, channels, events, source=npz.path)


def _trials(npz: packed.Npz, key: str, mask: np.ndarray) -> np.ndarray:
    """(trial, voxel) of the voxels that `mask` keeps."""
    array = npz.read(key)
    if array.ndim != 2 or array.shape[1:] != mask.shape:
        raise InputError(
            f"{NAME}: expected (trial, voxel) with the {mask.size} voxels of the region masks in "
            f"{npz.path}, key {key!r}, got {array.shape}; fetch it again"
        )
    return array[:, mask]


def _layout(root: Path, layout: str | None) -> str:
    there = [
        kind
        for kind, pattern in (("bdpy", "Subject*.h5"), ("mind-vis", "sbj_*.npz"))
        if any(root.glob(pattern))
    ]
    if layout not in (None, "bdpy", "mind-vis"):
        raise refusal(
            "data.layout",
            "'bdpy', 'mind-vis' or null",
            f"{layout!r}",
            f"choose what lies in {root}",
        )
    if not there or layout not in (None, *there):
        raise InputError(
            f"{NAME}: expected Subject1.h5 ... (bdpy) or sbj_1.npz ... (mind-vis) in {root}, found "
            f"{there or 'neither'}; put the files there, set paths.data or correct data.layout"
        )
    if layout is None and len(there) > 1:
        raise refusal(root, "one layout", "files of both", f"set data.layout to one of {there}")
    return layout or there[0]


def single_order(single: np.ndarray, means: np.ndarray, file: Path) -> np.ndarray:
    """Which of the averaged pictures each single trial (trial, voxel) shows.

    Trials lie picture by picture or round by round. The right order is the one in which the means of
    the trials are the published `means` (picture, voxel), up to their scale.
    """
    n, rest = len(means), len(single) % len(means)
    if rest or not len(single):
        raise refusal(
            f"{file}, key 'arr_1'",
            f"a multiple of {n} trials",
            len(single),
            "take all files from one release",
        )
    orders = (np.repeat(np.arange(n), len(single) // n), np.tile(np.arange(n), len(single) // n))
    fits = []
    for order in orders:
        found = np.stack([single[order == i].mean(axis=0) for i in range(n)])
        a, b = (x - x.mean(axis=0) for x in (found, means))
        fits.append(float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)))
    if max(fits) < 0.9:
        raise refusal(
            file,
            "means of 'arr_1' that are 'arr_2'",
            f"a correlation of {max(fits):.2f} at best, so that trials cannot be told apart",
            "set data.test=averaged",
        )
    return orders[int(np.argmax(fits))]


def _labels(data: BData) -> np.ndarray:
    return data.column("Label", "stimulus_id", "image_index")


def _picture_name(label: float) -> str:
    synset, number = f"{label:.6f}".split(".")
    return f"n{int(synset):08d}_{int(number)}"


def _runs(data: BData, subject: str, roi: str, imagery: bool) -> Iterator[Recording]:
    columns = np.intersect1d(data.columns(f"ROI_{roi}", roi), data.columns("VoxelData"))
    kinds, runs = data.column("DataType").astype(int), data.column("Run").astype(int)
    unknown = set(kinds.tolist()) - set(CONDITIONS)
    if unknown:
        raise refusal(data.file, "DataType 1, 2 or 3", unknown, "take the file as it was published")
    uids = np.array([f"{NAME}/{_picture_name(x)}" for x in _labels(data)])
    channels = _channels(data, columns)
    seen: dict[int, Counter[str]] = {kind: Counter() for kind in CONDITIONS}
    for kind, condition in CONDITIONS.items():
        if kind == 3 and not imagery:
            continue
        for run in np.unique(runs[kinds == kind]):
            rows = np.flatnonzero((kinds == kind) & (runs == run))
            names = uids[rows].tolist()
            events = packed.beta_events(
                names,
                "" if kind == 3 else condition,
                repeat=packed.count_repeats(names, seen[kind]),
                condition=condition,
            )
            signal = data.matrix[np.ix_(rows, columns)].astype(np.float32)
            label = f"{condition}-{run:02d}"
            yield Recording(
                subject, "", label, "fmri", signal, 1.0, channels, events, source=data.file
            )


def _channels(data: BData, columns: np.ndarray) -> pd.DataFrame:
    masks = {r: data.flags[f"ROI_{r}"][columns] == 1 for r in REGIONS if data.has(f"ROI_{r}")}
    table = packed.voxels(len(columns), packed.first_region(masks, len(columns)))
    for axis in "xyz":
        if data.has(f"voxel_{axis}"):
            table[axis] = data.flags[f"voxel_{axis}"][columns] / 1000
    return table


def _uid(part: str, row: int) -> str:
    return f"{NAME}/{part}/{row:04d}"


@lru_cache(maxsize=8)
def _synsets(file: Path, n: int) -> tuple[str, ...]:
    """Synset of each picture, from lines like `1518878.005958,"n01518878_5958.JPEG"`; () without."""
    if not file.is_file():
        return ()
    try:
        with file.open(newline="") as f:
            found = tuple(f"n{int(row[0].split('.')[0]):08d}" for row in csv.reader(f) if row)
    except (OSError, ValueError, csv.Error) as e:
        raise refusal(
            file, "lines that begin with a picture's number", e, "fetch the file again"
        ) from e
    if len(found) != n:
        raise refusal(file, f"{n} lines, one per picture", len(found), "fetch the file again")
    return found


def _unpack_all(npz: packed.Npz, part: str, folder: Path) -> None:
    """Write all pictures of a part: an array inside an npz file can only be read from its start."""
    key = f"{part}_images"
    n, white = npz.header(key)[0][0], 255.0
    for i, picture in enumerate(progress(npz.rows(key), f"{NAME} pictures", total=n)):
        if i == 0 and picture.dtype.kind == "f" and picture.max() <= 1:
            white = 1.0
        where = f"{npz.path}, {key}, row {i}"
        packed.unpack(
            NAME, folder / f"{i:04d}.png", where, partial(np.asarray, picture), white=white
        )
