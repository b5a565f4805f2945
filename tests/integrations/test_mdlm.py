"""The MDLM family on a small host of the same shape: adapter, refusals, the switch on the command line, the head."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException

from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.integrations import mdlm
from prism_plugin.integrations.mdlm.adapter import MDLMDenoiser
from prism_plugin.integrations.mdlm.sample import HostConfig, sample
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.sampling.config import option_names
from prism_plugin.sampling.presets import presets

HOST = Path(__file__).parents[1] / "hosts" / "mdlm_like"


def configured(*overrides):
    with initialize_config_dir(str(HOST / "configs"), version_base=None):
        return compose("config", list(overrides))


def built(diffusion, *overrides):
    """A host with random weights, output layer included."""
    import dataloader

    torch.manual_seed(0)
    config = configured(*overrides)
    return diffusion.Diffusion(config, dataloader.get_tokenizer(config)).eval()


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_rows_asked_for_are_the_hosts_posterior(mdlm_like, time_conditioning):
    host = built(mdlm_like, f"time_conditioning={time_conditioning}")
    denoiser = MDLMDenoiser(host)
    tokens = torch.randint(10, (3, 12))
    tokens[:, ::2] = host.mask_index
    index = torch.tensor([0, 14, -1, 26])  # masked positions, one padding entry
    with torch.no_grad():
        logits, rows = denoiser.project(denoiser(tokens), index)
        sigma = host.noise(torch.full((3, 1), 0.5))[0]  # half of the tokens are masks
        expected = host(tokens, sigma).flatten(0, 1)
    assert rows.tolist() == [0, 1, -1, 3]
    kept = rows >= 0
    torch.testing.assert_close(logits[rows[kept]].softmax(-1), expected[index[kept]].exp(), atol=1e-6, rtol=1e-5)
    assert logits[:, host.mask_index].isinf().all()


def test_states_come_from_before_the_output_layer_and_no_logits_are_made(mdlm_like):
    host = built(mdlm_like)
    denoiser = MDLMDenoiser(host)
    rows = []
    handle = host.backbone.output_layer.linear.register_forward_hook(lambda m, x, y: rows.append(y.shape[:-1].numel()))
    tokens = torch.full((2, 12), host.mask_index)
    with torch.no_grad():
        output = denoiser(tokens)
        assert sum(rows) == 0
        logits = denoiser.project(output, torch.arange(5))[0]
        handle.remove()
        everything = host.backbone.output_layer(output.hidden, output.time).flatten(0, 1)[:5]
    assert rows == [0, 5]
    assert output.hidden.shape == (2, 12, 32)
    assert output.time.shape == (2, 16)
    keep = torch.arange(host.vocab_size) != host.mask_index
    torch.testing.assert_close(logits[:, keep], everything[:, keep])
    assert not host.backbone.output_layer._forward_pre_hooks


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("parameterization=ar", "parameterization=ar"),
        ("parameterization=sedd", "parameterization=sedd"),
        ("backbone=dimamba", "backbone=dimamba"),
        ("noise.type=cosine", "noise=cosine"),
        ("sampling.semi_ar=True", "sampling.semi_ar=True"),
        ("+sampling.dfm=True", "sampling.dfm=True"),
        ("sampling.predictor=analytic", "sampling.predictor=analytic"),
        ("+sampling.sampler=remdm-cap", "sampling.sampler=remdm-cap"),
    ],
)
def test_clashes_name_both_sides(mdlm_like, override, named):
    host = built(mdlm_like, override)
    with pytest.raises(ConfigError, match=rf"{named} clashes with \+prism"):
        MDLMDenoiser(host)


def test_semi_ar_is_refused_where_the_host_would_bypass_the_sampler(mdlm_like):
    mdlm.switch_on(mdlm_like.Diffusion)
    with pytest.raises(ConfigError, match="semi_ar"):
        built(mdlm_like, "+prism=default", "sampling.semi_ar=True").restore_model_and_semi_ar_sample(1, 1)
    assert built(mdlm_like, "sampling.semi_ar=True").restore_model_and_semi_ar_sample(1, 1) == (0, [], [])


def test_every_preset_is_an_overlay_and_a_wrong_name_is_none(mdlm_like):
    for name in presets:
        assert configured(f"+prism={name}").prism.name == name
    node = configured("+prism=default", "prism.eta=.02").prism
    flat = {name for name in option_names() if "." not in name}
    assert set(node) == (set(HostConfig.__dataclass_fields__) - {"options"}) | flat and node.eta == 0.02
    with pytest.raises(MissingConfigException, match="nope"):
        configured("+prism=nope")


def test_an_unknown_key_or_a_value_out_of_range_is_refused(mdlm_like):
    with pytest.raises(Exception, match="etta"):
        configured("+prism=default", "prism.etta=.02")
    host = built(mdlm_like, "+prism=remdm-cap", "prism.eta=1.4")
    with pytest.raises(ConfigError, match=r"eta = 1\.4"):
        sample(host, 4)
    host = built(mdlm_like, "+prism=mdlm", "prism.steps=4")
    with pytest.raises(ConfigError, match=r"prism\.steps = 4 clashes with sampling\.steps = 8"):
        sample(host, 8)


def test_other_programs_with_a_module_of_that_name_are_left_alone():
    from types import ModuleType, SimpleNamespace

    assert not mdlm.is_host(ModuleType("diffusion"))
    other = ModuleType("diffusion")
    other.Diffusion = SimpleNamespace(_sample=None)
    assert not mdlm.is_host(other)


def test_a_host_without_the_node_samples_as_before(mdlm_like):
    plain = mdlm_like.Diffusion._sample.__wrapped__ if mdlm.is_on(mdlm_like.Diffusion) else mdlm_like.Diffusion._sample
    mdlm.switch_on(mdlm_like.Diffusion)
    mdlm.switch_on(mdlm_like.Diffusion)
    assert mdlm_like.Diffusion._sample.__wrapped__ is plain, "switched on once, not twice"
    host = built(mdlm_like)
    torch.manual_seed(3)
    expected = plain(host, 8)
    torch.manual_seed(3)
    assert torch.equal(host._sample(8), expected)


def test_remdm_is_told_by_its_update(mdlm_like):
    assert not mdlm.is_remdm(mdlm_like.Diffusion)
    assert mdlm.is_remdm(mdlm_like.RemaskingDiffusion)


def test_remdms_nucleus_is_taken_over_unless_prism_has_its_own(mdlm_like):
    from prism_plugin.integrations.mdlm.sample import settings

    assert settings(built(mdlm_like, "+prism=mdlm", "+sampling.nucleus_p=.8"), 4).top_p == 0.8
    assert settings(built(mdlm_like, "+prism=mdlm", "+sampling.nucleus_p=.8", "prism.top_p=.9"), 4).top_p == 0.9
    assert settings(built(mdlm_like, "+prism=mdlm"), 4).top_p is None


def test_without_a_head_self_likelihood_stands_in_with_one_warning(mdlm_like):
    host = built(mdlm_like, "+prism=default", "prism.eta=.5")
    with pytest.warns(UserWarning, match=r"prism\.head is not set") as warned:
        tokens = sample(host, 8)
    assert len([w for w in warned if "prism.head" in str(w.message)]) == 1
    assert tokens.shape == (16, 12)
    assert (tokens != host.mask_index).all()


def test_a_head_of_another_model_is_refused(mdlm_like, tmp_path):
    small = MDLMDenoiser(built(mdlm_like, "model.hidden_size=16"))
    attach_head(small, "dit")
    save_head(small, tmp_path)
    with pytest.raises((ConfigError, CheckpointError), match="16"):
        sample(built(mdlm_like, "+prism=default", f"prism.head={tmp_path}"), 4)
    with pytest.raises(CheckpointError, match="nowhere"):
        sample(built(mdlm_like, "+prism=default", f"prism.head={tmp_path / 'nowhere'}"), 4)


def test_the_weights_are_those_of_the_hosts_own_sampler(mdlm_like):
    mdlm.switch_on(mdlm_like.Diffusion)
    host = built(mdlm_like, "+prism=random")
    raw = [p.detach().clone() for p in host.weights()]
    for shadow in host.ema.shadow_params:
        shadow.add_(torch.randn_like(shadow))
    torch.manual_seed(7)
    drawn = host.restore_model_and_sample(num_steps=4)
    assert all(torch.equal(p, kept) for p, kept in zip(host.weights(), raw, strict=True)), "the host's own are back"
    torch.manual_seed(7)
    assert not torch.equal(sample(host, 4), drawn)
    host.ema.copy_to(host.weights())
    torch.manual_seed(7)
    assert torch.equal(sample(host, 4), drawn)


def test_the_seed_of_the_host_decides_and_batches_differ(mdlm_like):
    host = built(mdlm_like, "+prism=random-remask")
    torch.manual_seed(5)
    first, second = sample(host, 8), sample(host, 8)
    torch.manual_seed(5)
    assert torch.equal(sample(host, 8), first)
    assert not torch.equal(first, second)


def test_a_program_that_is_no_host_refuses_the_switch(tmp_path):
    (tmp_path / "other.py").write_text(
        "import hydra\n@hydra.main(version_base=None)\ndef main(config):\n    print('sampled')\nmain()\n"
    )
    for given, code in ((["+prism=default"], 1), (["++prism=default"], 1), (["+other=1"], 0), ([], 0)):
        done = subprocess.run(
            [sys.executable, "other.py", *given],
            cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False,
        )  # fmt: skip
        assert done.returncode == code and ("sampled" in done.stdout) == (code == 0), done.stderr
        assert ("prism=default: this program is neither MDLM nor ReMDM" in done.stderr) == bool(code)
    # Without this package Hydra takes the word for a value of the program's own, and stops at a key with it.
    alone = "import runpy, sys; sys.modules['hydra_plugins'] = None; runpy.run_path('other.py', run_name='__main__')"
    for given, code in ((["+prism=default"], 0), (["+prism=default", "prism.eta=.02"], 1)):
        done = subprocess.run(
            [sys.executable, "-c", alone, *given],
            cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False,
        )  # fmt: skip
        assert done.returncode == code and ("sampled" in done.stdout) == (code == 0), done.stderr
        assert ("prism.eta" in done.stderr) == bool(code)


def test_published_weights_are_a_transformer_around_the_same_network(mdlm_like):
    host = built(mdlm_like)
    published = torch.nn.Module()
    published.backbone = host.backbone
    published.config = SimpleNamespace(model_length=12, time_conditioning=False)
    published.forward = host.backbone.forward
    ours, theirs = MDLMDenoiser(published), MDLMDenoiser(host)
    tokens = torch.randint(10, (2, 12))
    assert (ours.mask_id, ours.max_length, ours.cond_size) == (host.vocab_size - 1, 12, theirs.cond_size)
    with torch.no_grad():
        assert torch.equal(ours(tokens).hidden, theirs(tokens).hidden)
    wrapped = built(mdlm_like, "backbone=hf_dit")
    wrapped.backbone = published
    with torch.no_grad():
        adapter = MDLMDenoiser(wrapped)
        logits, which = adapter.project(adapter(tokens), torch.arange(24))
        own = host.backbone(tokens, torch.zeros(2))
        torch.testing.assert_close(logits[which].view(2, 12, -1)[..., :-1], own[..., :-1])  # the last is the mask's


def run(*overrides, folder):
    command = [sys.executable, str(HOST / "main.py"), *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), check=False)


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOST.parents[2])}


def test_the_hosts_own_command_line_end_to_end(mdlm_like, tmp_path):
    """Train the host with its main.py, a head with our command, sample with and without +prism."""
    checkpoint = f"eval.checkpoint_path={tmp_path / 'host.pt'}"
    trained = run("mode=train", checkpoint, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr

    from prism_plugin.integrations.mdlm.train import train_quality

    ours = [f"out={tmp_path / 'head'}", "train.steps=120", "train.batch_size=64", "train.eval_texts=64", "quality.k=2"]
    assert train_quality([*ours, "train.warmup=10", "train.lr=3e-3"], [checkpoint], HOST) == tmp_path / "head"
    last = json.loads((tmp_path / "head" / "training_quality.json").read_text())["last"]
    assert last["auroc"] > 0.6, "the head tells right tokens from wrong ones better than chance"

    sampling = ["mode=sample_eval", checkpoint, "loader.eval_batch_size=256"]
    plain = run(*sampling, folder=tmp_path)
    prism = run(*sampling, "+prism=prism", f"prism.head={tmp_path / 'head'}", "prism.num_remask=2", folder=tmp_path)
    assert plain.returncode == prism.returncode == 0, plain.stderr + prism.stderr
    assert "8.0 remasks a text" in prism.stdout
    assert "remasks" not in plain.stdout
    assert counting(prism.stdout) > counting(plain.stdout) + 0.03, "corrected texts count better than plain ones"

    wrong = run("mode=sample_eval", checkpoint, "+prism=nope", folder=tmp_path)
    assert wrong.returncode != 0
    assert "prism/nope" in wrong.stderr
    assert "prism-evidence" in wrong.stderr


def counting(output):
    """Share of neighbours that count up or down by one."""
    texts = [text.strip("' ") for text in output.split("[")[-1].split("]")[0].split(",")]
    steps = [(int(b) - int(a)) % 10 in (1, 9) for text in texts for a, b in itertools.pairwise(text)]
    assert len(steps) == 256 * 11
    return sum(steps) / len(steps)
