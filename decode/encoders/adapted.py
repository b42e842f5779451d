"""Any encoder, started from a run with other subjects and partly frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decode.core import Batch, Encoder, InputError, Layout, Shape, Tensors
from decode.networks.adaptation import What, adapt, start_from


class Adapted(Encoder):
    """`inner` with the shared weights of `weights`, of which `what` is trained for these subjects.

    `weights` is an encoder.safetensors, or the folder of a fold that holds one, of a run with the
    same encoder and targets; None starts afresh. It is read when training begins, and the run is known
    by its content: weights trained anew under the same name are another run, and a file that was
    taken away would be missed.

    `what`: `input` trains only what belongs to each new subject, `lora` also low-rank products of
    `rank` beside the shared linear layers (Hu et al. 2021), `all` everything. `trained` are the
    subjects of that run, in its order: those that are here again get their own layers back, which only
    `what: all` trains further.

    Raises InputError for weights of another encoder, target or number of voxels.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        inner: Callable[..., Encoder],
        weights: str | None = None,
        what: What = "input",
        rank: int = 8,
        trained: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.inner = inner(layouts, shapes)
        self.weights, self.subjects, self.trained = weights, tuple(layouts), tuple(trained)
        known = [i for i, name in enumerate(self.subjects) if name in self.trained]
        adapt(self.inner, what, rank=rank, known=known)

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.inner.initialise(train, validation)
        if self.weights is None:
            return
        file = Path(self.weights).expanduser()
        file = file / "encoder.safetensors" if file.is_dir() else file
        if not file.is_file():
            raise InputError(
                f"encoder.weights: expected encoder.safetensors of a trained run at {file}, found "
                "none; give the file or its folder (outputs/train/...)"
            )
        start_from(self.inner, file, subjects=self.subjects, trained=self.trained)

    def forward(self, batch: Batch) -> Tensors:
        return self.inner(batch)

    def embed(self, targets: Tensors) -> Tensors:
        return self.inner.embed(targets)

    def __getattr__(self, name: str) -> Any:
        # What an objective asks of `inner` (its prior, its cycle) is asked of it.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":
                raise
            return getattr(super().__getattr__("inner"), name)
