"""Every head on every kind of host: fitted, trained through, saved, and refused where the model is another."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.integrations.llada.adapter import LLaDADenoiser
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Denoiser, Output, View
from prism_plugin.quality.head import (
    HeadConfig,
    attach_head,
    fingerprint,
    head_hash,
    heads,
    load_head,
    put_head,
    save_head,
)
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate
from tests.hosts.llada_like import modeling


class Plain(Denoiser):
    """A host that gives states before its final norm and has no time vector."""

    vocab_size, mask_id, hidden_size, max_length = 11, 0, 32, 64

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(11, 32), nn.Linear(32, 32)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        return Output(self.mix(self.embed(tokens)))


def ours(seed: int = 0) -> PrismModel:
    torch.manual_seed(seed)
    shape = BackboneConfig(vocab_size=11, mask_id=0, length=64, hidden_size=32, num_layers=2, num_heads=2)
    return PrismModel(shape, "none").eval()


def llada(seed: int = 0) -> LLaDADenoiser:
    torch.manual_seed(seed)
    return LLaDADenoiser(modeling.build(vocab_size=600, embedding_size=600, mask_token_id=0)).eval()


def plain(seed: int = 0) -> Plain:
    torch.manual_seed(seed)
    return Plain().eval()


HOSTS = {"ours": ours, "llada": llada, "plain": plain}
HEADS = [HeadConfig("linear"), HeadConfig("mlp"), HeadConfig("dit"), HeadConfig("dit", num_layers=2, num_heads=2)]
TOKENS = torch.arange(24).view(3, 8) % 11


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("config", HEADS, ids=lambda c: f"{c.name}{c.num_layers}")
def test_every_head_learns_and_comes_back_on_every_host(host: str, config: HeadConfig, tmp_path: Path) -> None:
    model = HOSTS[host]()
    attach_head(model, config)
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
    labels = (TOKENS % 2).float()
    losses = []
    for _ in range(40):
        loss = nn.functional.binary_cross_entropy_with_logits(model.judge(model(TOKENS)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())
    save_head(model, tmp_path)
    again = HOSTS[host]()
    load_head(again, tmp_path)
    assert again.head.config == model.head.config and again.head.config.hidden_size == 32
    assert torch.equal(again.judge(again(TOKENS)), model.judge(model(TOKENS)))


def test_the_published_head_is_the_default() -> None:
    assert [attach_head(HOSTS[host](), "").config.name for host in ("ours", "llada", "plain")] == ["dit", "mlp", "dit"]
    assert set(heads) == {"linear", "mlp", "dit", "two_stream"}


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="hidden size 16 and time size 64, the model has hidden size 32 and time size 64"
    ):
        attach_head(ours(), HeadConfig("linear", hidden_size=16))
    with pytest.raises(ConfigError, match=r"made for hidden size 16, the model has hidden size 32\."):  # no time
        attach_head(HOSTS["llada"](), HeadConfig("linear", hidden_size=16))
    with pytest.raises(ConfigError, match=r"num_layers = 1: head 'mlp' has no blocks"):
        attach_head(ours(), HeadConfig("mlp", num_layers=1))
    with pytest.raises(ConfigError, match=r"hidden_size = 32 must be a multiple of 2 . num_heads = 6"):
        attach_head(ours(), HeadConfig("dit", num_layers=1, num_heads=3))


def test_blocks_of_a_head_look_at_neighbours_and_not_at_padding() -> None:
    model = ours()
    head = attach_head(model, HeadConfig("dit", num_layers=1))
    nn.init.normal_(head.proj.weight)
    padding = torch.arange(8) < torch.tensor([8, 5, 3])[:, None]
    scores = model.judge(model(TOKENS, padding), padding)
    for row, length in enumerate((8, 5, 3)):
        alone = TOKENS[row : row + 1, :length]
        torch.testing.assert_close(scores[row, :length], model.judge(model(alone))[0], rtol=1e-4, atol=1e-5)
    view = View(model, model(TOKENS, padding), padding)
    assert torch.equal(view.quality, scores.sigmoid())
    other = TOKENS.clone()
    other[0, 7] = 5
    assert (model.judge(model(other))[0, :7] != model.judge(model(TOKENS))[0, :7]).all()


def test_a_head_goes_with_the_weights_that_it_was_trained_on(tmp_path: Path) -> None:
    model = ours()
    attach_head(model)
    save_head(model, tmp_path)
    load_head(ours().bfloat16(), tmp_path)  # the same weights, rounded
    with pytest.raises(CheckpointError) as caught:
        load_head(ours(seed=1), tmp_path)
    said = str(caught.value)
    assert fingerprint(model) in said and fingerprint(ours(seed=1)) in said and "prism_config.json" in said
    described = json.loads((tmp_path / "prism_config.json").read_text())
    del described["model"]["fingerprint"]
    (tmp_path / "prism_config.json").write_text(json.dumps(described))
    load_head(ours(seed=1), tmp_path)  # as the message says


def test_a_head_is_refused_by_a_host_whose_states_are_taken_elsewhere(tmp_path: Path) -> None:
    model = plain()
    attach_head(model, "mlp")
    save_head(model, tmp_path)
    model.hidden_at = "post_norm"
    with pytest.raises(CheckpointError, match="hidden_at = pre_norm, this one has post_norm"):
        load_head(model, tmp_path)


class Flat(nn.Module):
    """A head of somebody's own, of two sizes, one of which fits."""

    def __init__(self, size: int, out: int = 1) -> None:
        super().__init__()
        self.proj = nn.Linear(size, out)

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        return self.proj(hidden).squeeze(-1)


def spoilt(head: nn.Module, value: float) -> nn.Module:
    nn.init.constant_(next(head.parameters()), value)
    return head


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (3, "head = 3: allowed a folder"),
        ({"a": 1}, "allowed a folder"),
        (Flat, "of type type: allowed"),
        (nn.Linear(32, 1), r"Linear does not take hidden states \(1, 2, 32\)"),
        (Flat(16), r"Flat does not take hidden states \(1, 2, 32\) of this model and no time"),
        (Flat(32, 5), r"gives \(1, 2, 5\) for hidden states"),
        (spoilt(Flat(32), torch.nan), "proj.weight holds NaN or inf"),
        (spoilt(Flat(32), torch.inf), "proj.weight holds NaN or inf"),
    ],
)
def test_a_head_of_ones_own_is_looked_at_before_it_is_put_on(head: object, said: str) -> None:
    model = plain()
    with pytest.raises((ConfigError, CheckpointError), match=said):
        put_head(model, head)
    assert model.head is None
    put_head(model, Flat(32).bfloat16())
    assert isinstance(model.head, Flat)


def test_a_head_that_was_cast_to_whole_numbers_is_refused() -> None:
    head = Flat(32)
    for name, weight in list(head.proj.named_parameters()):
        delattr(head.proj, name)
        head.proj.register_parameter(name, nn.Parameter(weight.long(), requires_grad=False))
    with pytest.raises(ConfigError, match=r"proj.weight is torch.int64"):
        put_head(plain(), head)


def test_a_heads_hash_is_made_once_and_anew_where_a_weight_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    head, made, sha256 = Flat(32), [], hashlib.sha256
    monkeypatch.setattr("prism_plugin.quality.head.hashlib.sha256", lambda *a: made.append(1) or sha256(*a))
    first = head_hash(head)
    assert head_hash(head) == first and len(made) == 1
    with torch.no_grad():
        head.proj.weight[0, 0] += 1
    second = head_hash(head)
    assert second != first and len(made) == 2
    again = Flat(32)
    again.load_state_dict(head.state_dict())
    assert head_hash(again) == second
    head.proj.weight = nn.Parameter(head.proj.weight.detach() - 1)
    assert head_hash(head) not in (first, second)
    assert head_hash(head.bfloat16()) != head_hash(again)


def test_only_a_model_with_a_time_vector_is_spoken_to_of_one() -> None:
    with pytest.raises(ConfigError, match=r"hidden size 16, the model has hidden size 32\.$"):
        attach_head(plain(), HeadConfig("linear", hidden_size=16))


def test_lora_and_a_resized_vocabulary_leave_the_fingerprint_and_another_weight_does_not() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    model = llada()
    before = fingerprint(model)
    attach_head(model)
    adapted = peft.get_peft_model(model.host, peft.LoraConfig(r=2, target_modules=["qkv"]))
    assert fingerprint(LLaDADenoiser(adapted)) == before
    rows = llada()
    table = rows.host.model.transformer
    for name in ("wte", "ff_out"):
        table[name].weight = nn.Parameter(torch.cat([table[name].weight, table[name].weight[:40]]))
    assert fingerprint(rows) == before
    with torch.no_grad():
        rows.host.model.transformer["ln_f"].weight[0] += 1
    assert fingerprint(rows) != before


def two_stream(host: str) -> Denoiser:
    model = HOSTS[host]()
    attach_head(model, HeadConfig("two_stream", num_heads=2))
    return model


@pytest.mark.parametrize("host", ["ours", "llada"])
def test_a_second_stream_says_a_posterior_that_does_not_see_its_token(host):
    model, tokens = two_stream(host), TOKENS.clone()
    output = model(TOKENS)  # held fast, so that the stream alone could see the token

    def posterior() -> Tensor:
        stream = model.head(model.embedded(tokens), output.hidden, output.time)
        return model.project(output._replace(hidden=stream), torch.arange(8))[0].float().softmax(-1)

    before = posterior()
    tokens[0, 3] = 7
    after = posterior()
    torch.testing.assert_close(after[3], before[3])
    assert not torch.allclose(after[4], before[4])
    said = model.judge(output, None, tokens)
    with torch.no_grad():
        torch.testing.assert_close(model.judge(output, None, tokens), said, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(said[0, 3].sigmoid(), after[3, 7], rtol=1e-3, atol=1e-5)
    assert (said[tokens == model.mask_id] == 0).all()


def test_a_second_stream_starts_from_its_model_and_hides_padding(tmp_path):
    model = two_stream("ours")
    assert torch.equal(model.head.blocks[1].qkv.weight, model.backbone.blocks[-1].qkv.weight)
    assert torch.equal(model.head.start[0], model.backbone.embed.weight[model.mask_id])
    padding = torch.ones_like(TOKENS, dtype=torch.bool)
    padding[:, :3] = False
    alone = model.judge(model(TOKENS[:, 3:]), None, TOKENS[:, 3:])
    torch.testing.assert_close(model.judge(model(TOKENS, padding), padding, TOKENS)[:, 3:], alone, rtol=1e-4, atol=1e-4)
    save_head(model, tmp_path)
    other = ours()
    load_head(other, tmp_path)
    assert torch.equal(other.judge(other(TOKENS), None, TOKENS), model.judge(model(TOKENS), None, TOKENS))
    assert other.head.share == pytest.approx(model.head.share) and 0.5 < other.head.share < 1.2
    with pytest.raises(ConfigError, match="embeddings"):
        attach_head(plain(), "two_stream")
    with pytest.raises(ConfigError, match="none came"):
        model.judge(model(TOKENS))


@pytest.mark.parametrize("host", ["ours", "llada"])
@pytest.mark.parametrize("head", ["dit", "two_stream"])
def test_a_head_in_f32_judges_a_model_in_bf16(host, head):
    model = HOSTS[host]()
    attach_head(model, HeadConfig(head, num_layers=1, num_heads=2))
    torch.manual_seed(1)
    for weight in model.head.parameters():
        nn.init.normal_(weight, std=0.2)
    with torch.no_grad():
        exact = model.judge(model(TOKENS), None, TOKENS)
        model.bfloat16()
        model.head.float()
        model.recheck()
        said = model.judge(model(TOKENS), None, TOKENS)
        assert said.dtype == torch.float32
        torch.testing.assert_close(said, exact, rtol=0.1, atol=0.1)
    model.judge(model(TOKENS), None, TOKENS).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.head.parameters())
    written = generate(model, torch.full_like(TOKENS, model.mask_id), SamplerConfig("prism", steps=8)).tokens
    assert (written != model.mask_id).all()


def test_the_blocks_of_a_head_are_counted_in_the_cost_of_a_pass():
    model = ours()
    tokens = torch.full_like(TOKENS, model.mask_id)
    counted = {}
    for layers in range(4):
        attach_head(model, HeadConfig("dit", num_layers=layers))
        counted[layers] = float(generate(model, tokens, SamplerConfig("prism", steps=4)).cost.mean())
    blocks = model.backbone.config.num_layers
    assert counted[0] == 4.0
    blocks_of_head = [counted[n + 1] - counted[n] for n in (1, 2)]
    judged = 3  # of four steps, as nothing is masked again in the last
    assert blocks_of_head == pytest.approx([judged / blocks] * 2, rel=0.25)  # the time layers are shared
