"""The Python face: generate, stream, infill, score and correct, on token ids and on strings."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from prism_plugin import enable
from prism_plugin.errors import ConfigError
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.tasks import HELD_OUT, get_task

from .table_model import chain

WORDS = ["[MASK]", "<eos>", "a", "b", "c", "d", "e", "."]


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="e"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", eos_token="<eos>")


class Follow(Denoiser):
    """Says of every position that it is the one after its neighbour's: a, b, c, d, <eos>, or '.' after what it cannot
    see. With ``padding`` it looks only at what is real.
    """

    vocab_size, mask_id, hidden_size, max_length = len(WORDS), 0, 1, 64

    def __init__(self, gives: set[str]) -> None:
        super().__init__()
        self.gives = frozenset({"second_forward", *gives})
        self.weight = nn.Parameter(torch.zeros(1))
        self.passes = 0

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        self.passes += 1
        after = torch.tensor([7, 1, 3, 4, 5, 1, 1, 2])
        before = tokens.roll(1, dims=1)
        logits = nn.functional.one_hot(after[before], len(WORDS)).float() * 8
        return Output(logits[..., :1] * 0, None, logits)


def test_an_answer_is_written_behind_each_prompt_and_ends_where_the_text_ends() -> None:
    prism = enable(Follow({"padding"}), tokenizer=tokenizer(), sampler="confidence", steps=16, block_length=1)
    result = prism.generate(["a", "e . a b", "c"], max_new_tokens=8)
    assert result.texts == ["b c d", "c d", "d"]
    assert result.tokens.shape == (3, 12)
    assert (result.forwards < 8).all(), "a text that has ended is not written on"
    assert prism.generate("a", max_new_tokens=8, stop=["d", "x"]).texts == ["b c "]
    assert prism.generate("a", max_new_tokens=8, stop="d").forwards < prism.generate("a", max_new_tokens=8).forwards


@pytest.mark.parametrize("sampler", ["confidence", "random", "self-likelihood", "mdlm"])
def test_a_text_does_not_depend_on_its_neighbours_with_padding_or_without(sampler: str) -> None:
    prompts, settings = ["a", "e . a b", "c . . b", "a b"], {"max_new_tokens": 6, "temperature": 3.0, "steps": 6}
    padded, grouped = (enable(Follow(g), tokenizer=tokenizer(), sampler=sampler) for g in ({"padding"}, set()))
    texts = padded.generate(prompts, **settings).texts
    assert texts == grouped.generate(prompts, **settings).texts
    assert grouped.denoiser.passes > padded.denoiser.passes


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_gives_the_tokens_of_a_text_alone(side: str) -> None:
    torch.manual_seed(0)
    shape = BackboneConfig(vocab_size=12, mask_id=11, length=24, hidden_size=32, num_layers=2, num_heads=2, cond_size=8)
    model = PrismModel(shape, "").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    prism = enable(model, sampler="self-likelihood", steps=8)
    alone = torch.full((1, 16), 11)
    alone[:, :4] = torch.tensor([1, 2, 3, 4])
    batch, real = torch.full((2, 24), 11), torch.ones(2, 24, dtype=torch.bool)
    place = slice(8, 24) if side == "left" else slice(0, 16)
    batch[1, place], real[1] = alone[0], False
    real[1, place] = True
    expected = prism.generate(alone, request=torch.tensor([1]))
    found = prism.generate(batch, padding=real)
    assert torch.equal(found.tokens[1, place], expected.tokens[0])
    with torch.no_grad():
        together, by_itself = model(batch, real).hidden[1, place], model(alone).hidden[0]
    assert torch.allclose(together, by_itself, atol=1e-4)


def test_holes_are_filled_and_all_else_stays() -> None:
    prism = enable(Follow({"padding"}), tokenizer=tokenizer(), sampler="confidence", steps=8)
    assert prism.infill(["a [MASK] [MASK] d", ". [MASK*2] e"]).texts == ["a b c d", ". a b e"]
    tokens = torch.tensor([[2, 5, 5, 5]])
    where = torch.tensor([[False, True, True, False]])
    result = prism.infill(tokens, where)
    assert result.tokens.tolist() == [[2, 3, 4, 5]] and tokens.tolist() == [[2, 5, 5, 5]]


def test_a_stream_ends_with_what_generate_gives() -> None:
    prism = enable(Follow({"padding"}), tokenizer=tokenizer(), sampler="confidence", steps=3)
    seen = list(prism.stream("a", max_new_tokens=3))
    assert len(seen) == 4 and seen[0] == "a[MASK*3]" and seen[-1] == "a b c d"
    model = chain()
    tokens = torch.full((2, 5), model.mask_id)
    frames = list(enable(model, steps=5).stream(tokens))
    assert torch.equal(frames[-1], enable(model, steps=5).generate(tokens).tokens)
    assert (frames[0] == model.mask_id).all() and not torch.equal(frames[0], frames[1])


def test_a_spoilt_grid_is_corrected_and_a_right_one_stays(sudoku4_model: PrismModel) -> None:
    prism, task = enable(sudoku4_model), get_task("sudoku4")
    texts = task.texts(0, 64, HELD_OUT)
    spoilt, row = texts.clone(), torch.arange(64)
    spoilt[row, row % 16] = spoilt[row, row % 16] % 4 + 1
    result = prism.correct(spoilt, tau=0.3)
    assert (
        task.accuracy(result.tokens, spoilt * 0)[0].float().mean()
        > 0.7
        > 0
        == int(task.accuracy(spoilt, spoilt * 0)[0].sum())
    )
    left = prism.correct(texts, tau=0.3)
    assert (left.tokens == texts).float().mean() > 0.9 and left.forwards.float().mean() < 8
    protected = torch.ones_like(texts, dtype=torch.bool)
    assert torch.equal(prism.correct(spoilt, protected, tau=0.3).tokens, spoilt)


def test_strings_need_a_tokenizer_and_a_cache_needs_a_backbone_of_ours() -> None:
    with pytest.raises(ConfigError, match="knows tokens only"):
        enable(chain()).generate("a")
    with pytest.raises(ConfigError, match=r"cache = dual.*TableModel"):
        enable(chain(), cache="dual")


def test_what_a_head_wants_is_of_one_sampler_and_correct_doubts_a_posterior_late() -> None:
    """The head of ``code`` says a posterior: a tau of its evidence would doubt every token of a finished text."""
    prism = enable("code", steps=8)
    assert prism.config().settings() == {"name": "prism-evidence", "tau": 1.0, "steps": 8}
    assert prism.config("prism").settings() == {"name": "prism", "steps": 8}
    assert prism.config("prism-correct").options == {"tau": 3e-6}
    assert prism.config("prism-correct", tau=0.3).options == {"tau": 0.3}
    assert prism.config("prism-correct", select="fixed").options == {}
    assert enable("code", tau=0.2).config("prism-correct").options == {"tau": 0.2}
    assert enable("sudoku").config("prism-correct").options == {}
