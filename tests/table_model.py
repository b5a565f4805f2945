"""A denoiser that knows its distribution: every text and its probability in one table.

Row i of the logits is P(x_i = v | all visible tokens but i), so that at a mask it is the exact posterior and at a
visible token it holds the exact quality g*(y)_i = P(x_i = y_i | y with i masked), which an identity head hands out.
"""

import itertools

import torch
from torch import Tensor, nn

from prism_plugin.models.denoiser import Denoiser, Layout, Output


class LogitOf(nn.Module):
    """A head for hidden states that are the quality: its logit."""

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        return hidden[..., 0].logit(eps=1e-12)


class TableModel(Denoiser):
    """probability (V,) * L: the distribution of texts of L tokens out of V symbols; the mask is symbol V."""

    gives = frozenset({"padding", "second_forward", "probe", "layout"})

    def __init__(self, probability: Tensor) -> None:
        super().__init__()
        self.vocab_size, self.max_length = probability.shape[0] + 1, probability.dim()
        self.mask_id, self.hidden_size = probability.shape[0], 1
        self.probability = (probability / probability.sum()).flatten().double()
        symbols = [range(self.mask_id)] * self.max_length
        self.texts = torch.tensor(list(itertools.product(*symbols)))  # (N, L)
        self.head = LogitOf()
        self.passes = self.logit_rows = 0

    def leave_one_out(self, tokens: Tensor, layout: Layout | None = None) -> Tensor:
        """P(x_i = v | visible tokens but i) of tokens (B, L), (B, L, V); uniform where these cannot be.

        layout: rows that see what ``attend`` says, themselves excepted, and stand where ``positions`` says.
        """
        rows, length = tokens.shape
        if layout is None:
            layout = Layout(torch.arange(length).expand(rows, -1), torch.ones(rows, length, length, dtype=torch.bool))
        texts = self.texts.T[layout.positions].transpose(1, 2)  # (B, N, L)
        wrong = (tokens[:, None] != texts) & (tokens[:, None] != self.mask_id)
        seen = layout.attend & ~torch.eye(length, dtype=torch.bool)
        fits = torch.einsum("bnl,bil->bni", wrong.double(), seen.double()) == 0
        weight = fits * self.probability[:, None]
        symbol = nn.functional.one_hot(texts, self.mask_id).double()
        mass = torch.einsum("bni,bniv->biv", weight, symbol)
        total = mass.sum(-1, keepdim=True)
        return torch.where(total > 0, mass / total, 1 / self.mask_id)

    def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: Layout | None = None) -> Output:
        """See ``Denoiser.forward``; f64 throughout."""
        self.passes += 1
        p = self.leave_one_out(tokens, layout)
        seen = p.gather(-1, tokens.clamp(max=self.mask_id - 1)[..., None])
        return Output(seen, None, nn.functional.pad(p.log(), (0, 1), value=-torch.inf))

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """All logits as they are, and a count of the rows that were asked for."""
        self.logit_rows += index.numel()
        return super().project(output, index)


def chain(length: int = 5, symbols: int = 3, seed: int = 0) -> TableModel:
    """A random Markov chain as a table."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(symbols, generator=generator, dtype=torch.float64)
    step = torch.rand(symbols, symbols, generator=generator, dtype=torch.float64) ** 3 + 0.01
    table = first
    for _ in range(length - 1):
        table = table[..., None] * (step / step.sum(-1, keepdim=True))
    return TableModel(table)
