"""torch.compile(fullgraph=True) over one step of the preset prism: score, select, guard, revise, fill, advance."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prism_plugin.models.denoiser import Output, View
from prism_plugin.ops import compiled
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.methods import Parts
from prism_plugin.sampling.state import State
from tests.table_model import chain

pytestmark = pytest.mark.skipif(not compiled(), reason="the extension prism_plugin._C is not built")


def state_of(tokens: Tensor, editable: Tensor, config: Any, mask_id: int) -> State:
    """As on a device, where lists have a fixed length, with the step's one read behind it."""
    state = State(
        tokens.clone(), editable, mask_id, config, torch.arange(len(tokens)), suppress=torch.tensor([mask_id])
    )
    state.static = state._looked = True
    return state


@pytest.mark.parametrize("changes", [{}, {"order": "confidence", "temperature": 0.7}])
def test_a_step_of_prism_compiles_without_a_graph_break(changes: dict[str, Any]) -> None:
    model = chain(8)
    config = resolve(SamplerConfig(**{"name": "prism", "steps": 8, "num_remask": 1, **changes}))
    tokens = torch.full((3, 8), model.mask_id)
    editable = tokens == model.mask_id
    tokens[:, :4] = torch.randint(3, (3, 4), generator=torch.Generator().manual_seed(0))
    states = [state_of(tokens, editable, config, model.mask_id) for _ in range(2)]
    for state in states:
        state.step += 3
        state.block_step += 3

    def step(state: State, use: Parts, hidden: Tensor, logits: Tensor) -> None:
        view = View(model, Output(hidden, None, logits))
        allowed = state.masked
        use.revise(view)
        use.fill(view, allowed)
        state.advance(use.done())

    torch._dynamo.reset()
    runs = (step, torch.compile(step, fullgraph=True, backend="aot_eager"))
    parts = [Parts(state) for state in states]
    for number in range(2):
        for run, state, use in zip(runs, states, parts, strict=True):
            output = model(state.tokens)
            run(state, use, output.hidden, output.logits)
            state._looked = True
        eager, traced = states
        for name in ("tokens", "written", "doubted", "filled", "remasks", "former", "step", "fills", "wasted"):
            assert torch.equal(getattr(eager, name), getattr(traced, name)), (number, name)
    assert eager.remasks.sum() > 0 and eager.fills.sum() > 0 and not torch.equal(eager.tokens, tokens)
