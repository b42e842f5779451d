"""Banded ridge: several kinds of stimulus features to every voxel, each kind with its own penalty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import nn

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.linear.encoding import BRAIN, BrainModel, EncodingKnobs, SubjectEncoding, inputs_of


class BandedRidge(BrainModel):
    """A linear map per subject from bands of features to the brain, with penalties per band and voxel.

    Each target in `inputs` (None: all) is a band, so that a band of many features, or of useless ones,
    does not drown another. Penalties are alpha / share; the shares of the bands are chosen per voxel among
    all alike, each band alone and `draws` random ones (`seed`), the strength among `alphas` (None: a grid
    around the mean eigenvalue), by generalised cross-validation (`gcv`) or exact leave-one-out (`loo`, of
    all repeats of a stimulus together with `leave_out: stimulus`). Features have mean zero and unit spread
    by the training rows; validation rows are fitted too unless `use_validation` is False.

    The same model is also fitted without each band (`ablated`), so that what a band explains alone can
    be told from what it shares with the others.

    Raises InputError for fewer than two bands, targets that the experiment lacks and subjects without
    trials. Nunez-Elizalde et al. 2019, doi:10.1016/j.neuroimage.2019.04.012.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        inputs: Sequence[str] | None = None,
        draws: int = 20,
        alphas: Sequence[float] | None = None,
        by: Literal["loo", "gcv"] = "gcv",
        leave_out: Literal["trial", "stimulus"] = "trial",
        use_validation: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.bands = inputs_of(shapes, inputs)
        if len(self.bands) < 2:
            raise refusal(
                "encoder.inputs",
                "two bands or more",
                self.bands,
                "add a target or choose encoding_ridge",
            )
        knobs = EncodingKnobs(alphas, by, leave_out, use_validation, draws, seed)
        self.model = SubjectEncoding(layouts, shapes, [[band] for band in self.bands], knobs)
        self.without = nn.ModuleList(
            SubjectEncoding(layouts, shapes, [[b] for b in self.bands if b != band], knobs)
            for band in self.bands
        )

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.model.fit(train, validation, "banded ridge")
        for band, model in zip(self.bands, self.without, strict=True):
            model.fit(train, validation, f"without {band}")  # type: ignore[operator]

    def forward(self, batch: Batch) -> Tensors:
        return {BRAIN: self.model(batch)}

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        pairs = zip(self.bands, self.without, strict=True)
        return {band: {BRAIN: model(batch)} for band, model in pairs}
