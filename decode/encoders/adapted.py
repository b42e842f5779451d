"""Any encoder, started from a run with other subjects and partly frozen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decode.core import Batch, InputError, Layout, Shape, Tensors
from decode.networks.adaptation import What, adapt, start_from
from decode.store import check_tensors
from decode.trainable import Encoder, Learned, left_to_training, predicts_brain
from decode.weights.reading import trained_encoder

SCRATCH = "scratch"
REMEDY = "give encoder.safetensors of a trained run or its folder (outputs/train/...)"
NONE = (
    "{0}.weights: expected encoder.safetensors of a trained run or its folder, got null; set {0}.weights "
    f"(outputs/train/...), or to {SCRATCH} to start from random weights"
)


class Adapted(Encoder):
    """`inner` with the shared weights of `weights`, of which `what` is trained for these subjects.

    `weights` is an encoder.safetensors, or the folder of a fold that holds one, of a run with the
    same encoder and targets; "scratch" starts from random weights, which only that word asks for. It is
    read when training begins, and the run is known by its content: weights trained anew under the same
    name are another run, and a file that was taken away would be missed.

    `what`: `input` trains only what belongs to each new subject, `lora` also low-rank products of
    `rank` beside the shared linear layers (Hu et al. 2021), `all` everything. `trained` are the
    subjects of that run, in its order: those that are here again get their own layers back, which only
    `what: all` trains further.

    Raises InputError for no weights, and for those of another encoder, target or number of voxels.
    """

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        shapes: Mapping[str, Shape],
        *,
        inner: Callable[..., Encoder],
        weights: str | None = SCRATCH,
        what: What = "input",
        rank: int = 8,
        trained: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if weights is None:
            raise InputError(NONE.format("encoder"))
        self.inner = inner(layouts, shapes)
        self.weights, self.subjects, self.trained = weights, tuple(layouts), tuple(trained)
        known = [i for i, name in enumerate(self.subjects) if name in self.trained]
        adapt(self.inner, what, rank=rank, known=known)

    @classmethod
    def predicts_brain(cls, knobs: Mapping[str, Any]) -> bool:
        return predicts_brain(knobs["inner"])

    @classmethod
    def learned(cls, targets: Collection[str], knobs: Mapping[str, Any]) -> Learned:
        """With weights of another run, what is left are the layers of new subjects."""
        asked = left_to_training(knobs["inner"], targets)
        if knobs["weights"] in (SCRATCH, None) or not asked:
            return asked
        return {"the layers of new subjects": frozenset().union(*asked.values())}

    def initialise(self, train: Iterable[Batch], validation: Iterable[Batch]) -> None:
        self.inner.initialise(train, validation)
        if self.weights == SCRATCH:
            return
        file = _file(self.weights, "encoder")
        start_from(self.inner, file, subjects=self.subjects, trained=self.trained)

    @classmethod
    def check_node(cls, node: Mapping[str, Any], where: str) -> None:
        weights, rank = node.get("weights"), node.get("rank", 1)
        if weights is None:
            raise InputError(NONE.format(where))
        if rank < 1:
            raise InputError(f"{where}.rank: expected 1 or more, got {rank}; raise it")
        if weights != SCRATCH:
            check_tensors(_file(weights, where), f"{where}.weights: ", REMEDY)

    def forward(self, batch: Batch) -> Tensors:
        return self.inner(batch)

    def before_sampling(self, batch: Batch) -> Tensors:
        return self.inner.before_sampling(batch)

    def sampled(self, made: Tensors) -> Tensors:
        return self.inner.sampled(made)

    def embed(self, targets: Tensors) -> Tensors:
        return self.inner.embed(targets)

    def truth(self, batch: Batch) -> Tensors:
        return self.inner.truth(batch)

    def ablated(self, batch: Batch) -> dict[str, Tensors]:
        return self.inner.ablated(batch)

    def own_terms(self, batch: Batch, progress: float, predicted: Callable[[], Tensors]) -> Tensors:
        return self.inner.own_terms(batch, progress, predicted)


def _file(weights: str, where: str) -> Path:
    file = Path(weights).expanduser()
    file = trained_encoder(file) if file.is_dir() else file
    if not file.is_file():
        raise InputError(
            f"{where}.weights: expected encoder.safetensors of a trained run at {file}, found none; "
            "give the file or its folder (outputs/train/...)"
        )
    return file
