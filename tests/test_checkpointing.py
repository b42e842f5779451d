"""Running a denoiser's blocks again for the gradient: the same gradient from less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusion_twins import save_versatile
from test_dynadiff import brain_module, random_products, world
from test_hinted import Known, batch_of, shaken, write_model
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decode.core import Batch
from decode.objectives.denoising import Denoising
from decode.objectives.hinted_denoising import HintedDenoising
from decode.trainable import Encoder, Objective

Case = Callable[[bool], tuple[Any, Encoder, Batch]]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, batch = save_versatile(tmp_path_factory.mktemp("versatile")), world(8, seed=0)

    def case(checkpointing: bool) -> tuple[Any, Encoder, Batch]:
        objective = Denoising(model=str(folder), checkpointing=checkpointing)
        random_products(objective)
        return objective, brain_module(batch), batch

    return case


@pytest.fixture(scope="module")
def hints(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = write_model(tmp_path_factory.mktemp("sd"))

    def case(checkpointing: bool) -> tuple[Any, Encoder, Batch]:
        torch.manual_seed(0)
        objective = HintedDenoising(model=str(folder), checkpointing=checkpointing)
        # Whatever it began as: the entrance of a control is drawn at random.
        shaken(objective.control)
        return objective, Known(4), batch_of(4)

    return case


@pytest.fixture(params=["tokens", "hints"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


class Held(TorchDispatchMode):
    """Counts the bytes of what was made under it and is still held, whoever holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {StorageWeakRef(x.untyped_storage()) for x in tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for x in tensors(out):
            storage = StorageWeakRef(x.untyped_storage())
            if storage not in given:  # a view, of weights for example, holds nothing of its own
                self.made[storage] = x.untyped_storage().nbytes()
        return out

    def bytes(self) -> int:
        return sum(size for storage, size in self.made.items() if not storage.expired())


def gradients(case: Case, checkpointing: bool, training: bool) -> tuple[Tensor, list[Tensor], int]:
    objective, encoder, batch = case(checkpointing)
    encoder.train(training)
    torch.manual_seed(5)
    with Held() as held:
        loss = objective(encoder, batch, 0.5)["denoising"]
    memory = held.bytes()
    loss.backward()
    assert held.bytes() < memory / 10, "what was held is let go when the gradient is there"
    learnt = [p for m in (encoder, objective) for p in m.parameters()]
    return loss.detach(), [torch.as_tensor(p.grad) for p in learnt if p.requires_grad], memory


@pytest.mark.parametrize("training", [True, False])
def test_loss_and_gradients_are_the_same_from_less_memory(case: Case, training: bool) -> None:
    loss, grads, memory = gradients(case, checkpointing=False, training=training)
    again, others, less = gradients(case, checkpointing=True, training=training)
    assert torch.allclose(loss, again, rtol=1e-6)
    assert len(grads) == len(others) > 10
    for one, other in zip(grads, others, strict=True):
        assert float(one.abs().sum()) > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
    assert 0 < less < memory / 2


def test_what_is_trained_does_not_depend_on_it(case: Case) -> None:
    plain, _, _ = case(False)
    frugal, _, _ = case(True)
    assert isinstance(plain, Objective)
    assert plain.state_dict().keys() == frugal.state_dict().keys()
    ours, theirs = plain.tuned(), frugal.tuned()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours.keys() == theirs.keys()
