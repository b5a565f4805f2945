"""The posterior with a token hidden: against brute force over a table, with groups, padding and a real backbone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality import cavity
from tests.table_model import chain


def some_texts(rows, length, symbols, seed):
    """Texts with masks (the symbol ``symbols``)."""
    return torch.randint(0, symbols + 1, (rows, length), generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_groups_share_the_positions_evenly_and_by_rank(seed, count):
    where = torch.rand(4, 9, generator=torch.Generator().manual_seed(seed)) < 0.6
    hidden = torch.stack([*cavity.groups(where, count)]) if where.any() else torch.zeros(0, 4, 9).bool()
    assert torch.equal(hidden.sum(0) if len(hidden) else torch.zeros(4, 9).long(), where.long())
    assert hidden.any(2).any(1).all(), "no pass for a group that nobody has"
    for row in range(4):
        place = where[row].nonzero().squeeze(1)
        for rank, position in enumerate(place):
            assert hidden[rank % (count or int(where.sum(1).max())), row, position]


def test_every_token_alone_is_the_exact_quality():
    model, tokens = chain(length=5, symbols=3), some_texts(16, 5, 3, 0)
    visible = tokens != model.mask_id
    found = cavity.posterior(model, tokens, visible, 0)
    exact = model.leave_one_out(tokens).gather(-1, tokens.clamp(max=2)[..., None])[..., 0]
    torch.testing.assert_close(found[visible], exact[visible].float())
    assert (found[~visible] == 1).all()
    assert model.passes == int(visible.sum(1).max())


def test_groups_hide_each_other():
    """Of five visible tokens in two groups, the third is judged without the first and the fifth."""
    model = chain(length=5, symbols=3)
    tokens = some_texts(8, 5, 3, 1).clamp(max=2)
    found = cavity.posterior(model, tokens, torch.ones_like(tokens).bool(), 2)
    without = tokens.clone()
    without[:, [0, 2, 4]] = model.mask_id
    exact = model.leave_one_out(without)[:, 2].gather(-1, tokens[:, 2:3])[:, 0]
    torch.testing.assert_close(found[:, 2], exact.float())
    assert model.passes == 2


def small_model(length=12):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "cond_size": 8, "time_conditioning": True}
    model = PrismModel(BackboneConfig(vocab_size=7, mask_id=6, length=length, **shape), "text")
    torch.nn.init.normal_(model.backbone.unembed.weight)
    return model.eval()


def test_padding_and_other_rows_change_nothing():
    model, text = small_model(), some_texts(1, 8, 6, 2)
    alone = cavity.posterior(model, text, text != 6, 3)
    padded = torch.cat([torch.zeros(1, 4).long(), text], dim=1)
    tokens = torch.cat([some_texts(2, 12, 6, 3), padded])
    real = torch.ones_like(tokens).bool()
    real[2, :4] = False
    found = cavity.posterior(model, tokens, real & (tokens != 6), 3, real)
    torch.testing.assert_close(found[2, 4:], alone[0], atol=1e-5, rtol=1e-4)
    assert (found[2, :4] == 1).all()


def test_a_prompt_is_seen_and_never_hidden():
    model, tokens = chain(length=5, symbols=3), some_texts(4, 5, 3, 4).clamp(max=2)
    where = torch.tensor([False, False, True, True, True]).expand(4, -1)
    found = cavity.posterior(model, tokens, where, 1)
    exact = model.leave_one_out(tokens.masked_fill(where, model.mask_id)).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(found, torch.where(where, exact.float(), 1.0))
