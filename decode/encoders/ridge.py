"""Ridge regression on voxels or on sensors x time: the linear baseline of the field."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from decode.core import Batch, Layout, Shape, Tensors
from decode.linear.subject_ridge import RidgeKnobs, SubjectRidge
from decode.trainable import Encoder, Learned


class Ridge(Encoder):
    """A linear map per subject, solved in closed form for all targets at once.

    `alphas` are penalties as in scikit-learn, for all targets or by name; None, or a name left out,
    is a grid around the mean eigenvalue, and of a single one there is nothing to choose. `select`
    keeps that many voxels: those that, each alone, explain most of the first `components` principal
    components of the training targets. `per` says whether each target column, each named target or
    all share one strength; `by` whether it is chosen by exact leave-one-out (`loo`), generalised
    cross-validation (`gcv`) or on the validation rows; `leave_out: stimulus` leaves all repeats of
    a stimulus out together. With loo and gcv, validation rows are fitted too unless
    `use_validation` is False. `time: mean` averages each window over time. `rescale: train` undoes
    the shrinkage: leave-one-out predictions of the fitted rows get the variance of their targets
    (the re-standardisation of Ozcelik & VanRullen 2023 without a look at the test set).

    For more targets than fit in memory, `stream` reads them a block of columns at a time, and
    `form: dual` keeps trials x targets numbers in place of voxels x targets: the same function.

    Raises InputError for signals that do not fit the layouts and for subjects without trials.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        alphas: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
        select: int | None = None,
        components: int = 10,
        per: Literal["target", "name", "all"] = "target",
        by: Literal["loo", "gcv", "validation"] = "loo",
        leave_out: Literal["trial", "stimulus"] = "trial",
        time: Literal["flatten", "mean"] = "flatten",
        rescale: Literal["none", "train"] = "none",
        use_validation: bool = True,
        form: Literal["weights", "dual"] = "weights",
        stream: bool = False,
    ) -> None:
        super().__init__()
        knobs = RidgeKnobs(
            alphas, select, components, per, by, leave_out, time, rescale, use_validation,
            form, stream,
        )  # fmt: skip
        self.ridge = SubjectRidge(layouts, shapes, knobs)

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return {}

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.ridge.fit(train, validation)

    def forward(self, batch: Batch) -> Tensors:
        return self.ridge(batch)
