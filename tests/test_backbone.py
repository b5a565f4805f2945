"""The backbone: a text's hidden states depend on that text alone, and on where its tokens stand."""

import pytest
import torch
import torch.nn.functional as F

from prism_plugin.errors import ConfigError
from prism_plugin.models.backbone import GELU, Backbone, BackboneConfig, grid_relations


def backbone(**settings: object) -> Backbone:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "cond_size": 16}
    made = Backbone(BackboneConfig(**{"vocab_size": 7, "mask_id": 0, "length": 16, **size, **settings})).eval()
    with torch.no_grad():  # what starts at zero would hide what it does
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


LAYOUTS = pytest.mark.parametrize("layout", [{"grid": 2}, {"grid": 0}, {"grid": 0, "time_conditioning": True}])


@LAYOUTS
@torch.no_grad()
def test_neighbours_in_the_batch_do_not_matter(layout: dict) -> None:
    model = backbone(**layout)
    tokens, t = torch.randint(1, 7, (5, 16)), torch.rand(5)
    hidden, time = model(tokens, t)
    alone, alone_time = model(tokens[3:4], t[3:4])
    assert torch.allclose(hidden[3:4], alone, atol=1e-5) and torch.allclose(time[3:4], alone_time, atol=1e-6)
    assert not torch.allclose(hidden[2], hidden[3], atol=1e-2)


@torch.no_grad()
def test_padding_does_not_matter() -> None:
    model = backbone()
    tokens = torch.randint(1, 7, (2, 10))
    padded = torch.cat([tokens, torch.randint(1, 7, (2, 6))], dim=1)
    padding = torch.arange(16) < torch.tensor([[10], [10]])
    short, _ = model(tokens)
    assert torch.allclose(model(padded, padding=padding)[0][:, :10], short, atol=1e-5)
    assert not torch.allclose(model(padded)[0][:, :10], short, atol=1e-2)


@torch.no_grad()
def test_padding_does_not_matter_on_a_grid() -> None:
    model = backbone(grid=2)
    tokens = torch.randint(1, 7, (1, 16))
    padding = torch.arange(16)[None] < 12
    other = torch.where(padding, tokens, tokens % 6 + 1)
    assert torch.allclose(
        model(tokens, padding=padding)[0][:, :12], model(other, padding=padding)[0][:, :12], atol=1e-5
    )
    assert not torch.allclose(model(tokens)[0][:, :12], model(other)[0][:, :12], atol=1e-2)


@LAYOUTS
@torch.no_grad()
def test_places_matter_and_masks_are_never_predicted(layout: dict) -> None:
    model = backbone(**layout)
    tokens = torch.randint(1, 7, (1, 16))
    hidden, time = model(tokens)
    turned, _ = model(tokens.flip(1))
    assert not torch.allclose(hidden, turned.flip(1), atol=1e-2)
    logits = model.logits(hidden, time)
    assert logits.shape == (1, 16, 7)
    assert (logits[..., 0] == -torch.inf).all() and logits[..., 1:].isfinite().all()


@torch.no_grad()
def test_time_matters_only_with_time_conditioning() -> None:
    tokens, early, late = torch.randint(1, 7, (1, 16)), torch.tensor([0.1]), torch.tensor([0.9])
    without, conditioned = backbone(), backbone(time_conditioning=True)
    assert torch.equal(without(tokens, early)[0], without(tokens, late)[0])
    assert not torch.allclose(conditioned(tokens, early)[0], conditioned(tokens, late)[0], atol=1e-3)


@pytest.mark.parametrize("box", [2, 3])
def test_grid_relations_say_row_column_and_box(box: int) -> None:
    side = box * box
    relation = grid_relations(box)
    for a in range(0, side**2, 5):
        for b in range(side**2):
            (row, column), (other_row, other_column) = divmod(a, side), divmod(b, side)
            same_box = (row // box, column // box) == (other_row // box, other_column // box)
            assert relation[a, b] == (row == other_row) + 2 * (column == other_column) + 4 * same_box


def test_a_line_with_rotary_places_learns_to_copy_from_the_left() -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "cond_size": 16}
    model = Backbone(BackboneConfig(vocab_size=9, mask_id=0, length=12, **size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(120):
        tokens = torch.randint(1, 9, (32, 1)).add(torch.arange(12)) % 8 + 1  # each token is one more than its left
        masked = torch.rand(32, 12) < 0.5
        hidden, time = model(tokens.masked_fill(masked, 0))
        loss = torch.nn.functional.cross_entropy(model.logits(hidden, time)[masked], tokens[masked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.8 and sum(losses[-10:]) / 10 < 0.4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mask_id": 7}, "mask_id = 7 .*allowed 0 to 6"),
        ({"mask_id": -1}, "mask_id = -1"),
        ({"hidden_size": 30}, "multiple of 2 \\* num_heads"),
        ({"grid": 3}, "grid = 3 needs length = 81"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        backbone(**settings)


@torch.no_grad()
def test_a_forward_without_gradients_is_the_same_and_follows_every_change_of_a_weight() -> None:
    config = BackboneConfig(hidden_size=32, num_layers=2, num_heads=4, vocab_size=5, mask_id=0, length=16, grid=2)
    model = Backbone(config)
    tokens, padding = torch.randint(0, 5, (3, 16)), torch.ones(3, 16, dtype=torch.bool)
    padding[1, :5] = False
    for change in (lambda p: p.normal_(), lambda p: p.data.copy_(torch.randn_like(p)), lambda p: None):
        for layer in model.blocks:
            change(layer.relation_bias)
        for seen in (None, padding):
            with torch.enable_grad():
                learning = model(tokens, padding=seen)[0]
            torch.testing.assert_close(model(tokens, padding=seen)[0], learning, rtol=1e-5, atol=1e-5)


def test_gelu_is_torchs_with_and_without_gradients() -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, 1e4, -1e4])])
    with torch.no_grad():
        torch.testing.assert_close(GELU()(x), F.gelu(x, approximate="tanh"), rtol=1e-6, atol=1e-6)
    assert torch.equal(GELU()(x), F.gelu(x, approximate="tanh"))
