"""Ridge in which every target reads regions of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from decode.core import Batch, Layout, Shape, Tensors, refusal
from decode.division import Part
from decode.linear.part_ridge import PartRidge
from decode.linear.subject_ridge import Per
from decode.trainable import Encoder, Learned


class ByRegion(Encoder):
    """One ridge per target, from the regions that `regions` gives it (Takagi & Nishimoto 2023).

    A target that `regions` does not name reads all voxels. `alphas` are the strengths to choose from
    by leave-one-out, None a grid around the mean eigenvalue; `per` whether each column of a target or
    the target as a whole has one. Raises InputError for regions that a subject does not have.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        regions: Mapping[str, Sequence[str]],
        alphas: Sequence[float] | None = None,
        per: Per = "target",
    ) -> None:
        super().__init__()
        for subject, layout in layouts.items():
            known = set(layout.rois) - {""}
            for target, names in regions.items():
                missing = sorted(set(names) - known)
                if target in shapes and missing:
                    raise refusal(
                        f"encoder.regions.{target}",
                        f"regions of the voxels of {subject}, out of {sorted(known)}",
                        f"{missing[0]!r}",
                        "name some of them or give the data their masks",
                    )
        n_times = next(iter(layouts.values())).n_times
        self.ridges = nn.ModuleList(
            PartRidge(
                layouts,
                {target: shape},
                part=Part((target,), 0, n_times, tuple(regions.get(target, ()))),
                alphas=alphas,
                per=per,
            )
            for target, shape in shapes.items()
        )

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        return {}

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        for ridge in self.ridges:
            ridge.initialise(train, validation)  # type: ignore[operator]

    def forward(self, batch: Batch) -> Tensors:
        return {name: value for ridge in self.ridges for name, value in ridge(batch).items()}
