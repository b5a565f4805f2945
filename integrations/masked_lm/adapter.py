"""What ``AutoModelForMaskedLM`` loads as a ``Denoiser``: BERT, RoBERTa, ModernBERT, DistilBERT, ELECTRA and kin."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prism_plugin.errors import ConfigError
from prism_plugin.models.hooked import HookedDenoiser, base_model


class MaskedLMDenoiser(HookedDenoiser):
    """A model of transformers with an encoder, a transform and a decoder to the vocabulary.

    Hidden states are those that enter the decoder, behind the transform with its activation and norm; the bias is the
    decoder's. A model whose logits are made otherwise is refused when it is wrapped (see ``HookedDenoiser``).
    The mask is the tokenizer's, the config names none: give ``tokenizer`` or ``mask_id``.
    """

    wants = "it is no …ForMaskedLM of transformers with get_output_embeddings()"

    @staticmethod
    def matches(model: Any) -> bool:
        """Whether a model is one that fills masks."""
        host = base_model(model)
        masked = any(
            kind.__module__.startswith("transformers.models.") and kind.__name__.endswith("ForMaskedLM")
            for kind in type(host).__mro__
        )
        return masked and host.get_output_embeddings() is not None

    @staticmethod
    def loads(config: dict[str, Any]) -> bool:
        """See ``HookedDenoiser.loads``."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as NAMES

        return "auto_map" not in config and NAMES.get(config["model_type"], "").endswith("ForMaskedLM")

    @staticmethod
    def from_pretrained(name: str, *, trust_remote_code: bool = False, **options: Any) -> Any:
        """``AutoModelForMaskedLM``; ConfigError where the checkpoint has no trained decoder."""
        from transformers import AutoModelForMaskedLM

        model, found = AutoModelForMaskedLM.from_pretrained(name, output_loading_info=True, **options)
        if found["missing_keys"]:
            raise ConfigError(
                f"{name!r} holds no weights for {', '.join(sorted(found['missing_keys'])[:3])}: it cannot fill masks. "
                "Take the checkpoint that was saved with its masked language model head."
            )
        return model

    def longest(self) -> int:
        """The rows of the table of positions, less those in front of the first (RoBERTa)."""
        return super().longest() - self._first

    @property
    def _first(self) -> int:
        """The number of the first position: RoBERTa and kin count from behind their padding id."""
        for name, module in self.host.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                return 0 if module.padding_idx is None else module.padding_idx + 1
        return 0

    def inputs(self, tokens: Tensor, padding: Tensor | None) -> dict[str, Any]:
        """See ``HookedDenoiser.inputs``."""
        given = super().inputs(tokens, padding)
        if "position_ids" in given:
            given["position_ids"] = given["position_ids"] + self._first
        return given
