"""The parent of the targets that run a pretrained network over stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from decode.core import Kind, Reads, Stimulus, refusal
from decode.weights.reading import Precision, choose_device, choose_dtype, in_batches, quiet


def check_store(store: Precision) -> Precision:
    """The precision in which features are kept on disk; arrays there know no bfloat16."""
    if store not in ("float32", "float16"):
        raise refusal("targets.*.store", "float32 or float16", f"{store!r}", "choose one")
    return store


@dataclass(eq=False)
class NetworkTarget:
    """Features of a network that is opened when they are first asked for.

    `model` is a hub name or folder. `precision` is that of weights and activations; `store` that in
    which the features are kept on disk: float16 halves what 73,000 pictures of tokens take.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"image"})
    reads: ClassVar[frozenset[Reads]] = frozenset({"file"})

    model: str
    _: KW_ONLY
    precision: Precision = "float32"
    batch_size: int = 32
    device: str = "auto"
    store: Precision = "float32"

    def __post_init__(self) -> None:
        check_store(self.store)
        self.dtype = choose_dtype(self.precision)
        self._network: Any = None

    def open(self) -> Any:
        """The network with its weights, not yet placed."""
        raise NotImplementedError(f"{type(self).__name__} must say what it loads")

    def forward(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, *shape) of one batch."""
        raise NotImplementedError(f"{type(self).__name__} must say what it computes")

    def __call__(self, stimuli: Sequence[Stimulus]) -> Tensor:
        """(stimulus, *shape) float32 on the CPU."""
        if self._network is None:
            self._place = choose_device(self.device)
            network = self.open()
            with quiet():
                self._network = network.to(self._place, self.dtype).eval()
        label = f"{Path(self.model).name} {getattr(self, 'output', '')}".strip()
        return in_batches(stimuli, self.forward, batch_size=self.batch_size, label=label)
