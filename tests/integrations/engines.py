"""Engines for tests: modules imported from a folder, all else of the package replaced by nothings, and a runner."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.table_model import TableModel


class Nothing(ModuleType):
    """A module that has whatever is asked of it: classes without a content, made on demand."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (), {}))
        return getattr(self, name)


class Stubs(MetaPathFinder, Loader):
    """Modules of ``package`` other than the ``real`` ones, with ``given`` attributes by module name."""

    def __init__(self, package: Path, real: Sequence[str], given: dict[str, dict[str, Any]]) -> None:
        self.package, self.real, self.given = package, real, given

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top = self.package.name
        if name.split(".")[0] != top or any(name == one or name.startswith(one + ".") for one in self.real):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Nothing(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        inside = Path(*module.__name__.split(".")[1:])
        module.__path__ = [str(self.package / inside)]
        for name, value in self.given.get(module.__name__, {}).items():
            setattr(module, name, value)


@contextmanager
def imported(
    package: Path, real: Sequence[str], given: dict[str, dict[str, Any]] | None = None, forget: Sequence[str] = ()
) -> Iterator[None]:
    """``real`` modules of a package by path; at the end they, and ours that ``forget`` names, are forgotten."""
    finder = Stubs(package, real, given or {})
    importlib.invalidate_caches()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == package.name or name in forget]:
            del sys.modules[name]


class Processor(nn.Module):
    """Where a model of SGLang turns hidden states into logits."""

    def forward(self, input_ids: Tensor, hidden_states: Tensor, lm_head: Any, batch: Any) -> Tensor:
        return hidden_states


class Runner:
    """A table model as an engine's model runner: it sees the text before the block, by ``rids``, and masks after it."""

    def __init__(self, table: TableModel, block_size: int) -> None:
        self.table, self.block_size = table, block_size
        self.committed: dict[str, list[int]] = {}
        self.seen: dict[str, list[list[int]]] = {}  # the blocks that each forward went over
        self.model = SimpleNamespace(logits_processor=Processor())

    def forward(self, batch: Any, pp_proxy_tensors: Any = None) -> SimpleNamespace:
        """Logits of all blocks, (B * L, V)."""
        ids = batch.input_ids.view(batch.batch_size, self.block_size)
        text = torch.full((len(ids), self.table.max_length), self.table.mask_id)
        for row, rid in enumerate(batch.rids):
            before = self.committed.setdefault(rid, [])
            text[row, : len(before)] = torch.tensor(before, dtype=torch.long)
            text[row, len(before) : len(before) + self.block_size] = ids[row]
            self.seen.setdefault(rid, []).append(ids[row].tolist())
        place = batch.positions.view(ids.shape).long()[..., None]
        out = self.table(text)
        assert out.logits is not None
        logits = out.logits.gather(1, place.expand(-1, -1, out.logits.shape[-1])).flatten(0, 1)
        self.hidden = logits.softmax(dim=-1).float()  # stands for the states after the final norm
        self.model.logits_processor(batch.input_ids, self.hidden, None, batch)
        shown = SimpleNamespace(full_logits=logits, hidden_states=None)
        return SimpleNamespace(logits_output=shown, can_run_graph=False)


def batch(requests: Sequence[Any], block_size: int) -> SimpleNamespace:
    """What the runtime hands an algorithm: the blocks that requests are at, with their rids and positions."""
    where = [torch.arange(len(r.text), len(r.text) + block_size) for r in requests]
    return SimpleNamespace(
        batch_size=len(requests), input_ids=torch.tensor([token for r in requests for token in r.block]),
        positions=torch.cat(where).int(), rids=[r.rid for r in requests], dllm_prompt_mask=None,
    )  # fmt: skip


class Request:
    """A request: its prompt, and how many blocks are to be written in all."""

    def __init__(self, rid: str, prompt: Sequence[int], blocks: int, block_size: int, mask_id: int) -> None:
        self.rid, self.prompt, self.block_size, self.mask_id = rid, list(prompt), block_size, mask_id
        self.length = blocks * block_size
        self.text: list[int] = []  # of finished blocks
        self.state: Any = None
        self.customized_info: dict[str, list[Any]] | None = None
        self.sampling_params = SimpleNamespace()
        self.begin()

    def begin(self) -> None:
        """The next block: what is left of the prompt, then masks."""
        left = self.prompt[len(self.text) : len(self.text) + self.block_size]
        self.block = left + [self.mask_id] * (self.block_size - len(left))

    @property
    def over(self) -> bool:
        return len(self.text) == self.length


def serve(algorithm: Any, runner: Runner, requests: Sequence[Request], choose: Any, rounds: int = 500) -> None:
    """The runtime's scheduler, a step of some requests at a time: ``choose(waiting)`` says of which."""
    for request in requests:
        assert algorithm.validate_request(request) is None
    for _ in range(rounds):
        waiting = [request for request in requests if not request.over]
        if not waiting:
            return
        some = choose(waiting)
        _, ids, accepted, states, _ = algorithm.run(
            runner, batch(some, algorithm.block_size), [request.state for request in some]
        )
        for request, block, length, state in zip(some, ids, accepted, states, strict=True):
            request.block, request.state = block, state
            if length:
                assert runner.seen[request.rid][-1] == block, "done before a forward went over the final tokens"
                request.text += block
                runner.committed[request.rid] = list(request.text)
                request.begin()
    raise AssertionError(f"not done after {rounds} rounds")
