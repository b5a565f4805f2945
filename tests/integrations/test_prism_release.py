"""PRISM's release: its names are understood, and where its code can be had, what is drawn has one law."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from prism_plugin import cli
from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.integrations.prism_release import from_words, read, settings
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate

from .mdlm_law import bound, chi_square

LENGTH, MASK, SYMBOLS = 5, 2, 2
STAND_INS = Path(__file__).parents[1] / "hosts" / "stand_ins"
SUDOKU = "sampling.steps=51 sampling.num_remask=4 sampling.nucleus_p=1.0 sampling.sampler=prism"
TEXT = "sampling.steps=256 sampling.step_on=128 sampling.step_off=256 sampling.eta=.01 sampling.nucleus_p=.9"


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (f"{SUDOKU} sampling.num_initial_masks=51", {"name": "prism", "steps": 51, "step_on": 0, "num_remask": 4}),
        (f"{TEXT} sampling.sampler=prism",
         {"name": "prism-text", "steps": 256, "step_on": 128, "eta": 0.01, "top_p": 0.9}),
        ("sampling.sampler=prism", {"name": "random", "steps": 128, "step_on": 0}),
        ("sampling.sampler=mdlm sampling.steps=20 sampling.num_initial_masks=51",
         {"name": "random", "steps": 20, "alpha": "even"}),
        ("sampling.sampler=topk_prob", {"name": "confidence", "steps": 128, "confidence_of": "untempered"}),
        ("sampling.predictor=ddpm_cache sampling.sampler=remdm-conf", {"name": "remdm-conf", "steps": 128}),
        ("sampling.predictor=ddpm_cache sampling.sampler=remdm-cap sampling.eta=.04 seed=3",
         {"name": "remdm-cap", "steps": 128, "eta": 0.04}),
        ("sampling.predictor=ddpm_cache sampling.sampler=remdm-loop sampling.t_on=.55 sampling.t_off=.05 "
         "sampling.alpha_on=.9", {"name": "remdm-loop", "steps": 128, "eta": 0.0, "loop_on": 0.45, "loop_off": 0.95,
                                  "alpha_on": 0.9}),
        ("sampling.dfm=True", {"name": "dfm", "steps": 128}),
    ],
)  # fmt: skip
def test_a_command_line_of_the_release_gives_our_settings(words: str, ours: dict[str, Any]) -> None:
    found = settings(from_words(words.split()))
    assert found == pytest.approx(ours) if "loop_on" in ours else found == ours
    resolve(SamplerConfig(**found))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sampling.sampler=prism sampling.loop_steps=4", "sampling.loop_steps = 4"),
        ("sampling.sampler=token-critic", "token-critic .* has no counterpart"),
        ("sampling.sampler=topk_porb", "topk_prob"),
        ("sampling.sampler=topk_prob sampling.step_on=4", "sampling.step_on"),
    ],
)
def test_what_has_no_counterpart_is_named(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(from_words(words.split()))


def test_a_script_and_a_configuration_are_read_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run.sh").write_text(
        "#!/bin/bash\n#SBATCH --it='s\ntouch ran\nsteps=51\nbase=x\npython -u -m main seed=0 \\\n"
        "  sampling.steps=${steps} \\\n  sampling.num_remask=4 \\\n  sampling.num_initial_masks=51 \\\n"
        '  sampling.sampler="prism" \\\n  out=${base}/y \\'
    )
    assert read(tmp_path / "run.sh") == {"name": "prism", "steps": 51, "step_on": 0, "num_remask": 4}
    assert cli.main(["import", str(tmp_path / "run.sh")]) == 0
    words = capsys.readouterr().out.split()
    assert words == ["sampler=prism", "sampler.steps=51", "sampler.step_on=0", "sampler.num_remask=4"]
    assert (
        cli.main(["sample", "model=sudoku-k1", "clues=80", *words[:1], "sampler.steps=2", "sampler.num_remask=0"]) == 0
    )
    (tmp_path / "c.yaml").write_text(
        "sampling:\n  sampler: prism\n  steps: 51\n  num_remask: 4\n  num_initial_masks: 51\n  x: ${div_up:1,2}\n"
    )
    assert read(tmp_path / "c.yaml")["num_remask"] == 4
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "none.sh")


# ---- the release itself: PRISM_HOST_PRISM names a checkout


def checkout(host: str = "PRISM") -> Path:
    folder = os.environ.get(f"PRISM_HOST_{host}")
    if not folder:
        pytest.skip(f"PRISM_HOST_{host} names no checkout")
    return Path(folder)


PLACE = 3 ** torch.arange(LENGTH)
TABLE = 1.5 * torch.randn(3**LENGTH, LENGTH, 3, generator=torch.Generator().manual_seed(1))
QUALITY = 2 * torch.randn(3**LENGTH, LENGTH, generator=torch.Generator().manual_seed(2))


class Network(nn.Module):
    """The release's backbone: logits, states (here the quality of every token) and a time vector, by the whole text."""

    def get_hidden_states(self, tokens: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        text = (tokens * PLACE).sum(-1)
        return TABLE[text].clone(), QUALITY[text], sigma


class Adapter(nn.Module):
    """The release's adapter: the quality that the states hold."""

    def forward(self, hidden: Tensor, c: Tensor) -> Tensor:
        return hidden[..., None]


class Quality(nn.Module):
    """A head for states that are its logits."""

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        return hidden[..., 0]


class TableDenoiser(Denoiser):
    """The same table as a Denoiser, with the same head."""

    vocab_size, mask_id, hidden_size, max_length = 3, MASK, 1, LENGTH

    def __init__(self) -> None:
        super().__init__()
        self.head = Quality()

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        logits, hidden, _ = Network().get_hidden_states(tokens, torch.zeros(len(tokens)))
        logits[..., MASK] = -torch.inf
        return Output(hidden[..., None], None, logits)


@pytest.mark.real_host
@pytest.mark.parametrize(
    "words",
    [
        "sampling.sampler=prism sampling.num_remask=1 sampling.steps=5",
        "sampling.sampler=prism sampling.num_remask=1 sampling.steps=8 sampling.step_on=2 sampling.step_off=6",
        "sampling.sampler=prism sampling.eta=.3 sampling.steps=5",
        "sampling.sampler=prism sampling.eta=.4 sampling.nucleus_p=.8 sampling.steps=4",
        "sampling.sampler=mdlm sampling.steps=3",
        "sampling.sampler=topk_prob sampling.steps=4",
        "sampling.sampler=topk_prob_margin sampling.steps=4",
        "sampling.predictor=ddpm_cache sampling.sampler=mdlm sampling.steps=4",
        "sampling.predictor=ddpm_cache sampling.sampler=remdm-cap sampling.eta=.2 sampling.steps=4",
        "sampling.predictor=ddpm_cache sampling.sampler=remdm-rescale sampling.eta=.5 sampling.steps=4",
    ],
)
def test_same_settings_draw_the_same_texts(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state of a text of five tokens, after every step: two samples of one law.

    remdm-conf of the release mixes two precisions and does not run on a CPU; ReMDM's own is in test_mdlm_real.py.
    """
    folder, rows = checkout(), 8_000
    for path in (STAND_INS, folder):
        monkeypatch.syspath_prepend(str(path))
    import noise_schedule
    import prob_path

    sampling = {
        "predictor": "topk_static", "steps": 5, "noise_removal": False, "nucleus_p": 1.0, "eta": 0.0, "num_remask": 0,
        "step_on": 0, "step_off": 1024, "t_on": 0.0, "t_off": 0.0, "loop_steps": 0, "loop_step_on": 1024,
        "num_remask_loop": 0, "alpha_on": 0.0, "dfm": False, "num_x0_xt": 1, "num_xs_x0": 1,
        **from_words(words.split()), "num_initial_masks": LENGTH,
    }  # fmt: skip
    # The number that is remasked is drawn once a batch there, once a text here: a text at a time has the same law.
    binomial = sampling["sampler"] == "prism" and sampling["eta"] > 0
    batch = 1 if binomial else rows
    config = SimpleNamespace(
        sampling=SimpleNamespace(**sampling, sample_batch_size=batch), parameterization="subs", time_conditioning=False,
        adapter=SimpleNamespace(input_type="embedding"), model=SimpleNamespace(length=LENGTH),
        noise=SimpleNamespace(type="loglinear"),
    )  # fmt: skip
    path = prob_path.MaskProbPath(config, MASK, 3, noise_schedule.LogLinearNoise(), Network(), Adapter())
    monkeypatch.setattr(prob_path, "tqdm", lambda steps: steps)
    torch.manual_seed(0)
    runs = [
        path.generate_sample(sampling["steps"], return_intermediates=True)[1] for _ in range(800 if binomial else 1)
    ]
    theirs = [(torch.cat(states) * PLACE).sum(-1) for states in zip(*runs, strict=True)]
    ours: list[Tensor] = []
    generate(
        TableDenoiser(), torch.full((rows, LENGTH), MASK), SamplerConfig(**settings(sampling)),
        callback=lambda state, view: ours.append((state.tokens * PLACE).sum(-1)),
    )  # fmt: skip
    for step, (first, second) in enumerate(zip(theirs, ours, strict=True)):
        statistic, df = chi_square(first, second)
        print(f"{words}: step {step}: chi-square {statistic:.1f}, df {df}, bound {bound(df):.1f}")
        assert statistic <= bound(df), f"step {step}: {statistic:.1f} on {df} degrees of freedom"


@pytest.mark.real_host
@pytest.mark.parametrize(("host", "words"), [("PRISM", []), ("PROSECO", ["data=openwebtext-split"])])
def test_main_of_another_host_stops_at_the_switch(host: str, words: list[str], tmp_path: Path) -> None:
    """Unedited, what is not installed stood in for. With our plugin at ``+prism=``; without it Hydra takes that for a
    value of the program's own, and stops at the key that the documented form has.
    """
    folder = checkout(host)
    (tmp_path / "sitecustomize.py").write_text(
        f"exec(open({str(STAND_INS / 'sitecustomize.py')!r}).read())\n"
        "import importlib.util, os, sys\nfrom importlib.machinery import ModuleSpec\nfrom unittest import mock\n"
        "if 'PRISM_TEST_WITHOUT' in os.environ:\n    sys.modules['hydra_plugins'] = None\n"
        "for name in ('lightning', 'timm', 'timm.scheduler', 'torchmetrics', 'wandb', 'lightning.pytorch',\n"
        "             'lightning.pytorch.callbacks', 'lightning.pytorch.utilities', 'lightning.fabric',\n"
        "             'lightning.pytorch.utilities.exceptions', 'lightning.pytorch.utilities.rank_zero'):\n"
        "    top = name.split('.')[0]\n"
        "    if isinstance(sys.modules.get(top), mock.MagicMock) or not importlib.util.find_spec(top):\n"
        "        made = mock.MagicMock(__path__=[])\n        made.__spec__ = ModuleSpec(name, None)\n"
        "        for base in ('LightningModule', 'Callback', 'Metric', 'CosineLRScheduler'):\n"
        "            setattr(made, base, type(base, (), {}))\n"
        "        made.aggregation = mock.MagicMock(MeanMetric=type('MeanMetric', (), {}))\n"
        "        sys.modules[name] = made\n"
    )
    paths = [str(tmp_path), str(STAND_INS), str(Path(__file__).parents[2])]

    def run(*given: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HYDRA_FULL_ERROR": "1", **more}
        return subprocess.run(
            [sys.executable, "main.py", f"hydra.run.dir={tmp_path}/run", *words, *given, "--cfg", "job"],
            cwd=folder, capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip

    without = {"PRISM_TEST_WITHOUT": "1"}
    plain = run("+prism=default", **without)
    assert plain.returncode == 0 and "\nprism: default" in plain.stdout, plain.stderr
    for given in (["+prism=default"], ["+prism=default", "prism.eta=.02"]):
        done = run(*given)
        assert done.returncode == 1 and "prism=default: this program is neither MDLM nor ReMDM" in done.stderr, (
            done.stderr
        )
        if len(given) > 1:
            done = run(*given, **without)
            assert done.returncode == 1 and "prism.eta" in done.stderr, done.stderr


@pytest.mark.real_host
@pytest.mark.parametrize("blocks", [0, 1])
def test_a_checkpoint_of_the_releases_own_modules_computes_the_same_here(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its DIT and FeatureDIT with random weights, saved as Lightning saves them, by `prism import`."""
    for path in (STAND_INS, checkout()):
        monkeypatch.syspath_prepend(str(path))
    from models import dit

    sizes = {"hidden_size": 32, "cond_dim": 16, "length": 89, "n_blocks": 2, "n_heads": 2, "dropout": 0.1}
    torch.manual_seed(0)
    parts = {
        "backbone": dit.DIT(OmegaConf.create({"model": {**sizes, "scale_by_sigma": True}}), 11),
        "adapter": dit.FeatureDIT(
            OmegaConf.create({"model": {**sizes, "n_blocks": blocks, "scale_by_sigma": True}}), 1
        ),
    }
    for part in parts.values():
        part.eval()
        for weights in part.parameters():
            nn.init.normal_(weights, std=0.2)
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    shadow = [p.detach().clone() for p in parts["backbone"].parameters()]
    torch.save({"state_dict": state, "ema": {"decay": 0.9999, "shadow_params": shadow}}, tmp_path / "release.ckpt")
    assert cli.main(["import", str(tmp_path / "release.ckpt"), f"out={tmp_path / 'ours'}"]) == 0
    ours = PrismModel.from_pretrained(tmp_path / "ours")
    tokens = torch.randint(11, (2, 89), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, hidden, c = parts["backbone"].get_hidden_states(tokens, torch.zeros(2))  # type: ignore[operator]
        quality = parts["adapter"](hidden, c).squeeze(-1)
        output = ours(tokens)
        found, which = ours.project(output, torch.arange(tokens.numel()))
        torch.testing.assert_close(found[which].view(2, 89, 11)[..., 1:], logits[..., 1:], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.judge(output), quality, rtol=1e-3, atol=1e-3)
    assert quality.std() > 0.01
