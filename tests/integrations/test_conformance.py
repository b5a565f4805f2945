"""Every adapter by the suite that third parties run, on small models of the classes that hosts install."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from prism_plugin.errors import ConfigError
from prism_plugin.integrations.llada.adapter import LLaDADenoiser, LLaDAMoEDenoiser
from prism_plugin.integrations.masked_lm.adapter import MaskedLMDenoiser
from prism_plugin.integrations.mdlm.adapter import MDLMDenoiser
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.testing import CHECKS, Case, conformance
from tests.hosts.llada_like import modeling
from tests.integrations.test_mdlm import built

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}


def masked_lm(name: str, sizes: dict[str, Any], kind: Any = None) -> nn.Module:
    """A model of transformers' own class with random weights, biases too, so that every position differs."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=40, **{**SMALL, **sizes})
    model = (kind or getattr(transformers, f"{name}ForMaskedLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2 if parameter.ndim > 1 else 0.1)
    return model


MASKED: dict[str, tuple[str, dict[str, int | bool]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"max_position_embeddings": 34}),
    "modernbert": ("ModernBert", {"pad_token_id": 0, "global_attn_every_n_layers": 2}),
    "distilbert": ("DistilBert", {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2}),
    "electra": ("Electra", {"embedding_size": 24}),
    "albert": ("Albert", {"embedding_size": 24}),
    "deberta-v2": ("DebertaV2", {"relative_attention": True}),
    "xlm-roberta": ("XLMRoberta", {"max_position_embeddings": 34}),
    "mpnet": ("MPNet", {"max_position_embeddings": 34}),
    "fnet": ("FNet", {}),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", MASKED)
def test_masked_language_models(name: str, check: str) -> None:
    def adapter(model: nn.Module, mask_id: int = 4) -> MaskedLMDenoiser:
        return MaskedLMDenoiser(model, mask_id)

    print(name, check, Case(adapter, masked_lm(*MASKED[name]), vocabulary=range(5, 40)).run(check))


def test_a_decoder_that_is_no_matrix_on_the_states_is_refused() -> None:
    with pytest.raises(ConfigError, match="DebertaV2ForMaskedLM: its logits are not its output layer's"):
        MaskedLMDenoiser(masked_lm("DebertaV2", {"legacy": False}), 4)


def ours(model: PrismModel, tokens: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """Our own backbone's logits, all of them."""
    output = model(tokens, padding)
    return model.backbone.logits(output.hidden, output.time)


class LLaDAMoEModelLM(transformers.EuroBertForMaskedLM):
    """A stand-in for its face: it looks everywhere, heeds the mask, and ``lm_head`` makes the logits."""


def llada_moe(model: Any, mask_id: int = 39) -> LLaDAMoEDenoiser:
    return LLaDAMoEDenoiser(model, mask_id)


EURO: dict[str, Any] = {
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "mask_token_id": 39,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY = {"vocab_size": 60, "embedding_size": 60, "mask_token_id": 59}
HOSTS: dict[str, Callable[[], Case]] = {
    "llada": lambda: Case(LLaDADenoiser, modeling.build(**TINY)),
    "llada, tied": lambda: Case(LLaDADenoiser, modeling.build(**TINY, weight_tying=True, scale_logits=True)),
    "llada-moe": lambda: Case(llada_moe, masked_lm("EuroBert", EURO, LLaDAMoEModelLM), vocabulary=range(3, 39)),
    "a denoiser of ours": lambda: Case(lambda model: model, PrismModel.from_pretrained("code"), ours),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", HOSTS)
def test_hosts(name: str, check: str) -> None:
    print(name, check, HOSTS[name]().run(check))


@pytest.fixture(scope="module")
def mdlm_host(mdlm_like: ModuleType) -> nn.Module:
    """The small host, built once."""
    return built(mdlm_like, "time_conditioning=True")


@pytest.mark.parametrize("check", CHECKS)
def test_mdlm(mdlm_host: nn.Module, check: str) -> None:
    print(check, Case(MDLMDenoiser, mdlm_host, vocabulary=range(10)).run(check))


def test_what_breaks_is_named_all_at_once() -> None:
    class Wrong(MaskedLMDenoiser):
        shift = 1  # BERT's logits are not shifted
        hidden_at = "post_norm"

        def _probe(self) -> bool:
            return True

    with pytest.raises(
        AssertionError, match=r"Wrong breaks \d+ of \d+: .*rows: AssertionError: logits of the rows differ"
    ):
        conformance(lambda model, mask_id=4: Wrong(model, mask_id), masked_lm("Bert", {}), logits=plain)
    report = conformance(lambda model, mask_id=4: MaskedLMDenoiser(model, mask_id), masked_lm("Bert", {}), logits=plain)
    assert list(report) == list(CHECKS) and report["padding"] == "left, right, none"


def plain(model: Any, tokens: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """The host's own call, without the adapter's help."""
    return model(input_ids=tokens, attention_mask=None if padding is None else padding.long()).logits
