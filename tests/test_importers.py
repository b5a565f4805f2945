"""Checkpoints in the key layout of PRISM's release become folders of ours, and nothing that they hold is run."""

import collections
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.integrations.llada.adapter import LLaDADenoiser
from prism_plugin.models import importers
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.importers import Stub, convert, read
from prism_plugin.quality.head import load_head
from tests.hosts.llada_like import modeling

SIZE, HEADS, COND, V = 32, 2, 16, 11


class Scale(nn.Module):
    """LayerNorm with a weight and no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, [SIZE]) * self.weight


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size = SIZE // HEADS
        self.register_buffer("inv_freq", 1.0 / 10_000 ** (torch.arange(0, size, 2).float() / size))


def turned(x: Tensor, frequency: Tensor) -> Tensor:
    """x (B, L, H, d): the first half of every head against the second."""
    angle = torch.outer(torch.arange(x.shape[1]).float(), frequency)[None, :, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


class ReleaseBlock(nn.Module):
    """The names and the order of the release's parameters; what they compute is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn_qkv = Scale(), nn.Linear(SIZE, 3 * SIZE, bias=False)
        self.attn_out, self.norm2 = nn.Linear(SIZE, SIZE, bias=False), Scale()
        self.mlp = nn.Sequential(nn.Linear(SIZE, 4 * SIZE), nn.GELU(approximate="tanh"), nn.Linear(4 * SIZE, SIZE))
        self.adaLN_modulation = nn.Linear(COND, 6 * SIZE)

    def forward(self, x: Tensor, frequency: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=2)
        q, k, v = self.attn_qkv(self.norm1(x) * (1 + scale1) + shift1).unflatten(-1, (3, HEADS, -1)).unbind(2)
        parts = (part.transpose(1, 2) for part in (turned(q, frequency), turned(k, frequency), v))
        x = x + gate1 * self.attn_out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class ReleaseFinal(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.norm_final, self.linear = Scale(), nn.Linear(SIZE, outputs)
        self.adaLN_modulation = nn.Linear(COND, 2 * SIZE)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class ReleaseDIT(nn.Module):
    """The backbone (with symbols) and the adapter (without) of the release."""

    def __init__(self, layers: int, outputs: int, symbols: bool) -> None:
        super().__init__()
        if symbols:
            self.vocab_embed, self.sigma_map = nn.Module(), nn.Module()
            self.vocab_embed.embedding = nn.Parameter(torch.empty(outputs, SIZE))
            self.sigma_map.mlp = nn.Sequential(nn.Linear(256, COND), nn.SiLU(), nn.Linear(COND, COND))
        self.rotary_emb = Rotary()
        self.blocks = nn.ModuleList(ReleaseBlock() for _ in range(layers))
        self.output_layer = ReleaseFinal(outputs)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x, self.rotary_emb.inv_freq, c)
        return x, self.output_layer(x, c)

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings, and the time vector at sigma = 0."""
        waves = torch.cat([torch.ones(len(tokens), 128), torch.zeros(len(tokens), 128)], dim=1)
        return self.vocab_embed.embedding[tokens], F.silu(self.sigma_map.mlp(waves))


class Release(nn.Module):
    def __init__(self, head_layers: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = ReleaseDIT(2, V, symbols=True)
        if head_layers is not None:
            self.adapter = ReleaseDIT(head_layers, 1, symbols=False)
        for weights in self.parameters():
            nn.init.normal_(weights, std=0.2)
        nn.init.normal_(self.backbone.vocab_embed.embedding, std=3.0)

    def save(self, path: Path, average: bool = True) -> None:
        """As Lightning does: objects of a configuration beside the weights, and the backbone's average."""
        shadow = [1.2 * p.detach() for p in self.backbone.parameters()]
        content = {
            "epoch": 3,
            "state_dict": self.state_dict(),
            "hyper_parameters": {"config": OmegaConf.create({"model": {"length": 89}}), "path": Path("x")},
            "loops": {"fit_loop": collections.Counter(a=1)},
        }
        if average:
            content["ema"] = {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow}
        torch.save(content, path)


@pytest.mark.parametrize("head_layers", [0, 1])
@pytest.mark.parametrize("ema", [True, False])
def test_a_dit_of_the_release_computes_the_same_in_our_backbone(tmp_path: Path, head_layers: int, ema: bool) -> None:
    release = Release(head_layers)
    release.save(tmp_path / "release.ckpt")
    assert f"head dit of {head_layers} blocks" in convert(tmp_path / "release.ckpt", tmp_path / "ours", ema=ema)
    model = PrismModel.from_pretrained(tmp_path / "ours")
    assert (model.vocab_size, model.mask_id, model.max_length, model.cond_size) == (V, 0, 89, COND)
    tokens = torch.randint(V, (3, 89), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if ema:
            for weights in release.backbone.parameters():  # the average of the backbone, the head as it is
                weights.mul_(1.2)
        embedded, c = release.backbone.embed(tokens)
        hidden, logits = release.backbone(embedded, c)
        quality = release.adapter(hidden, c)[1].squeeze(-1)
        output = model(tokens)
        ours, _ = model.project(output, torch.arange(tokens.numel()))
        torch.testing.assert_close(output.hidden, hidden, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours.view(3, 89, V)[..., 1:], logits[..., 1:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.judge(output), quality, rtol=1e-4, atol=1e-4)
        assert quality.std() > 0.03  # there is something to compare


def test_a_dit_without_a_head_is_taken_too_and_unknown_symbols_are_asked_about(tmp_path: Path, monkeypatch) -> None:
    Release(None).save(tmp_path / "mdlm.ckpt", average=False)
    assert "no head" in convert(tmp_path / "mdlm.ckpt", tmp_path / "ours")
    assert PrismModel.from_pretrained(tmp_path / "ours").head is None
    monkeypatch.setattr(importers, "KNOWN", {})
    with pytest.raises(ConfigError, match="a vocabulary of 11: give length=… and mask_id=…"):
        convert(tmp_path / "mdlm.ckpt", tmp_path / "other", length=89)
    convert(tmp_path / "mdlm.ckpt", tmp_path / "other", mask_id=10, length=20)
    other = PrismModel.from_pretrained(tmp_path / "other")
    assert (other.mask_id, other.max_length) == (10, 20)


def test_what_is_not_of_the_release_is_named(tmp_path: Path) -> None:
    def changed(**changes) -> Path:
        Release(0).save(tmp_path / "c.ckpt", average="ema" in changes)
        content = torch.load(tmp_path / "c.ckpt", weights_only=False)
        for name, value in changes.items():
            at = content["state_dict"] if "." in name else content
            at.pop(name) if value is None else at.update({name: value})
        torch.save(content, tmp_path / "c.ckpt")
        return tmp_path / "c.ckpt"

    for changes, said in [
        ({"backbone.blocks.1.norm2.weight": None}, "'blocks.1.norm2.weight' is missing"),
        ({"backbone.blocks.0.extra": torch.ones(1)}, "backbone.blocks.0.extra is not of the release"),
        ({"adapter.vocab_embed.embedding": torch.ones(V, SIZE)}, "critic"),
        ({"ema": {"shadow_params": [torch.ones(2)]}}, "ema holds 1 tensors"),
        ({"backbone.output_layer.linear.weight": torch.ones(V, 7)}, "unembed.weight"),
        ({"state_dict": {"a": torch.ones(1)}}, "neither"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            convert(changed(**changes), tmp_path / "ours")
        assert not (tmp_path / "ours" / "model.safetensors").exists()
    (tmp_path / "cut").write_bytes((tmp_path / "c.ckpt").read_bytes()[:400])
    with pytest.raises(CheckpointError, match="damaged"):
        convert(tmp_path / "cut", tmp_path / "ours")
    with pytest.raises(CheckpointError, match="is not there"):
        convert(tmp_path / "nothing", tmp_path / "ours")


class Runs:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    attacks = {
        "system": Runs(os.system, f"touch {mark}"),
        "exec": Runs(exec, f"open({str(mark)!r}, 'w')"),
        "import": Runs(eval, f"__import__('pathlib').Path({str(mark)!r}).touch()"),
        "process": Runs(subprocess.check_output, ["touch", str(mark)]),
        "loads": Runs(pickle.loads, pickle.dumps(Runs(os.system, f"touch {mark}"))),
        "getattr": Runs(getattr, "text", "upper"),
        "load": Runs(torch.hub.load_state_dict_from_url, "http://localhost/none"),
    }
    weights = Release(0).state_dict()
    torch.save({"state_dict": weights, "hyper_parameters": attacks, **attacks}, tmp_path / "bad.ckpt")
    content = read(tmp_path / "bad.ckpt")
    assert all(isinstance(content[name], Stub) for name in attacks)
    assert all(isinstance(value, Stub) for value in content["hyper_parameters"].values())
    assert all(torch.equal(content["state_dict"][name], value) for name, value in weights.items())
    convert(tmp_path / "bad.ckpt", tmp_path / "ours")
    torch.save({"state_dict": {**weights, "backbone.blocks.0.norm1.weight": attacks["exec"]}}, tmp_path / "worse.ckpt")
    with pytest.raises(CheckpointError, match=r"backbone.blocks.0.norm1.weight is no tensor but a Stub"):
        convert(tmp_path / "worse.ckpt", tmp_path / "ours")
    assert not mark.exists()
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(attacks["system"]))  # no zip: torch's old format
    torch.save(attacks, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("plain.bin", "old.bin"):
        with pytest.raises(CheckpointError, match=r"no file of torch\.save"):
            read(tmp_path / name)
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read(tmp_path / "script.pt")
    assert not mark.exists()


class RemaskingHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.proj1 = nn.LayerNorm(32), nn.Linear(32, 32)
        self.act, self.proj2 = nn.GELU(), nn.Linear(32, 1)


def test_a_llada_of_the_release_becomes_a_head_and_lora(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed (extra: train)")

    def host() -> nn.Module:
        return modeling.build().eval()

    class RemaskingLLaDA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["qkv"])
            self.backbone = peft.get_peft_model(host(), lora)
            self.remasking_head = RemaskingHead()

    release = RemaskingLLaDA().eval()
    with torch.no_grad():
        for name, weights in release.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weights, std=0.3)
    torch.save(release.state_dict(), tmp_path / "pytorch_model.bin")
    assert "LoRA of rank 4" in convert(tmp_path / "pytorch_model.bin", tmp_path / "head")
    tokens = torch.randint(1000, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = release.backbone(tokens, output_hidden_states=True).hidden_states[-1]
        head = release.remasking_head
        expected = head.proj2(head.act(head.proj1(head.norm(hidden)))).squeeze(-1)
        ours = LLaDADenoiser(host())
        load_head(ours, tmp_path / "head")  # and the LoRA; the fingerprint of the base is that of the file
        torch.testing.assert_close(ours.judge(ours(tokens)), expected)
        plain = LLaDADenoiser(host())
        assert not torch.allclose(plain(tokens).hidden, hidden)
    with torch.no_grad():
        plain.host.model.transformer["ln_f"].weight[0] += 1
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_head(plain, tmp_path / "head")
