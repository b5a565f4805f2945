"""Tasks that make their documents: ``class: !function utils.Made``, ``documents: !function utils.<name>``."""

from collections.abc import Mapping
from typing import Any

from lm_eval.api.task import ConfigurableTask


class Made(ConfigurableTask):
    """A task of lm-eval that has its splits of a function, which ``dataset_kwargs`` are handed to.

    lm-eval has ``custom_dataset`` for this from 0.4.9 on; this is the same under 0.4.8.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        own = dict(config)
        self.documents = own.pop("documents")
        own.pop("class")
        super().__init__(config=own)

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Make them."""
        self.dataset = self.documents(**(dataset_kwargs or {}))
