"""Stimulus features to every voxel or sensor by one ridge: the linear encoding model of the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from decode.core import Batch, Layout, Shape, Tensors
from decode.linear.encoding import BRAIN, BrainModel, EncodingKnobs, SubjectEncoding, inputs_of


class EncodingRidge(BrainModel):
    """A linear map per subject from targets to the brain, all channels and samples from one factorisation.

    Reads the targets in `inputs` (None: all) as one vector, each feature brought to mean zero and unit
    spread by the training rows, and predicts `brain` (channel, time). `alphas` are penalties as in
    scikit-learn; None is a grid around the mean eigenvalue. Each voxel has its own, chosen by exact
    leave-one-out (`loo`), of all repeats of a stimulus together with `leave_out: stimulus`, or by
    generalised cross-validation (`gcv`). Validation rows are fitted too unless `use_validation` is False.

    Raises InputError for targets that the experiment lacks and for subjects without trials. Naselaris et
    al. 2011, doi:10.1016/j.neuroimage.2010.07.073.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        inputs: Sequence[str] | None = None,
        alphas: Sequence[float] | None = None,
        by: Literal["loo", "gcv"] = "loo",
        leave_out: Literal["trial", "stimulus"] = "trial",
        use_validation: bool = True,
    ) -> None:
        super().__init__()
        knobs = EncodingKnobs(alphas, by, leave_out, use_validation)
        self.model = SubjectEncoding(layouts, shapes, [inputs_of(shapes, inputs)], knobs)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.model.fit(train, validation, "encoding ridge")

    def forward(self, batch: Batch) -> Tensors:
        return {BRAIN: self.model(batch)}
