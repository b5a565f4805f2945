"""A host's checkpoint by its folder: a head and LoRA trained on instructions, saved beside each other, loaded again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig

import prism_plugin
from prism_plugin import cli
from prism_plugin.config import load
from prism_plugin.errors import CheckpointError, ConfigError
from prism_plugin.integrations.llada.adapter import LLaDADenoiser
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import Denoiser, hosts
from prism_plugin.models.hosts import load_host
from prism_plugin.models.lora import find_targets, load_lora
from prism_plugin.training.train import train
from tests.hosts.llada_like import modeling
from tests.training.test_data import tokenizer

SIZE = {
    "vocab_size": 12,
    "embedding_size": 12,
    "max_sequence_length": 16,
    "d_model": 16,
    "hidden_size": 16,
    "n_layers": 1,
    "mask_token_id": 3,
}
SMALL = (
    "train.steps=3", "train.batch_size=4", "train.warmup=1", "train.eval_texts=8", "train.threads=1",
    "trust_remote_code=true", "train.lr=0.05", "train.save_every=2",
)  # fmt: skip
JUDGED, LOW = "quality.k=2", "lora.r=2"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the manner of the published one: config, tokenizer, weights; its code is that of tests/hosts."""

    def load(name: str, *, trust_remote_code: bool, mask_id: int, dtype: torch.dtype) -> LLaDADenoiser:
        if not trust_remote_code:
            raise ConfigError("pass trust_remote_code=true to run its code.")
        model = modeling.LLaDAModelLM(modeling.config(**SIZE)).to(dtype)
        model.config = PretrainedConfig(**vars(model.config))  # what peft expects of a host
        model.load_state_dict(load_file(Path(name) / "model.safetensors"))
        return LLaDADenoiser(model.eval(), mask_id)

    monkeypatch.setattr(LLaDADenoiser, "load", load)
    if "llada" not in hosts:  # where the package is imported from its checkout
        monkeypatch.setitem(hosts._known, "llada", LLaDADenoiser)
    folder = tmp_path / "host"
    tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llada", **SIZE}))
    save_file(modeling.build(**SIZE).state_dict(), folder / "model.safetensors")
    rows = [{"prompt": "one two", "response": "two one three"}, {"prompt": "four", "response": "four"}] * 8
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(checkpoint: Path, out: str, *settings: str) -> Path:
    data, folder = checkpoint.parent / "rows.jsonl", checkpoint.parent / out
    given = [*SMALL, JUDGED, *(() if "train.tune=head" in settings else (LOW,)), f"model={checkpoint}", f"data={data}"]
    return train("quality", load([*given, f"out={folder}", *settings]))


def states(model: Denoiser) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[1, 7, 3, 9, 3]])).hidden


def test_a_head_and_lora_are_trained_saved_and_loaded_again(checkpoint: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    made = run(checkpoint, "lora", "lora.targets=qkv,out")
    assert {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"} <= {p.name for p in made.iterdir()}
    assert not (made / "model.safetensors").exists(), "the host's weights stay where they are"
    about = json.loads((made / "prism_config.json").read_text())
    assert about["trained"]["tune"] == "lora" and about["trained"]["lora"]["r"] == 2 and about["head"]["name"] == "mlp"

    plain, _ = load_host(str(checkpoint), trust_remote_code=True)
    before = states(plain)
    prism = prism_plugin.enable(plain.host, head=made, host="llada")
    assert not torch.allclose(states(prism.denoiser), before), "what was trained is in the model"
    assert not any(p.requires_grad for p in plain.host.parameters() if p.ndim and "lora" in str(p))
    again, _ = load_host(str(checkpoint), trust_remote_code=True)
    by_peft = LLaDADenoiser(peft.PeftModel.from_pretrained(again.host, made), 3)
    assert torch.equal(states(by_peft), states(prism.denoiser)), "plain peft reads the folder"

    load_lora(prism.denoiser, made)  # there already
    other = run(checkpoint, "other", "lora.targets=qkv,out", "train.seed=1")
    with pytest.raises(CheckpointError, match="the model has LoRA other than that in"):
        load_lora(prism.denoiser, other)
    with pytest.raises(ConfigError, match=r"lora.targets = qkv,nope are not all there: .*: ff_out, out, qkv"):
        run(checkpoint, "nope", "lora.targets=qkv,nope")


def test_a_head_alone_leaves_no_trace_in_the_host(checkpoint: Path) -> None:
    made = run(checkpoint, "head", "train.tune=head")
    assert not list(made.glob("adapter*")) and (made / "head.safetensors").exists()
    plain, _ = load_host(str(checkpoint), trust_remote_code=True)
    score = prism_plugin.enable(plain.host, head=made, host="llada").score(torch.tensor([[1, 7, 3, 9]]))
    assert score.isnan().tolist() == [[False, False, True, False]]


def test_a_cavity_head_is_trained_on_a_host_in_bf16_and_writes_with_it(checkpoint: Path) -> None:
    data, made = checkpoint.parent / "rows.jsonl", checkpoint.parent / "cavity"
    given = (f"model={checkpoint}", f"data={data}", f"out={made}", "quality.objective=cavity", "train.bf16=true")
    train("quality", load([*SMALL, *given, "head.num_heads=2"]))
    host, _ = load_host(str(checkpoint), trust_remote_code=True)
    prism = prism_plugin.enable(host.host.bfloat16(), head=made, host="llada")
    assert {p.dtype for p in prism.denoiser.head.parameters()} == {torch.float32}
    tokens = prism.generate(torch.full((2, 12), 3), "prism-evidence", steps=6).tokens
    assert (tokens != 3).all() and prism.score(tokens).isfinite().all()


def test_lora_of_a_model_of_ours_lies_beside_it(sudoku4_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    small = [*(setting for setting in SMALL if not setting.startswith("trust")), JUDGED]
    made = train("quality", load([*small, LOW, f"model={sudoku4_folder}", f"out={tmp_path}/lora", "train.tune=lora"]))
    base, tuned = PrismModel.from_pretrained(sudoku4_folder), PrismModel.from_pretrained(made)
    weights = load_file(made / "model.safetensors")
    assert weights.keys() == base.backbone.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in base.backbone.state_dict().items())
    tokens = torch.tensor([[1, 2, 3, 4] * 4])
    with torch.no_grad():
        assert not torch.allclose(tuned(tokens).hidden, base(tokens).hidden)
        assert prism_plugin.enable(made).score(tokens).shape == (1, 16)
    with pytest.raises(ConfigError, match="has LoRA already: name the model that it was trained on"):
        train("quality", load([*small, f"model={made}", f"out={tmp_path}/twice"]))


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_model_of_ours_is_trained_on_and_leaves_its_old_head_behind(
    tune: str, sudoku4_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    small = [s for s in SMALL if not s.startswith("trust")]
    tuned = [*small, "corrector.weight=1", f"train.tune={tune}", *([LOW] if tune == "lora" else [])]
    made = train("mdm", load([*tuned, f"model={sudoku4_folder}", f"out={tmp_path}/further"]))
    base, further = PrismModel.from_pretrained(sudoku4_folder), PrismModel.from_pretrained(made)
    assert base.head is not None and further.head is None and not list(made.glob("adapter*"))
    assert {p.shape for p in base.backbone.parameters()} == {p.shape for p in further.backbone.parameters()}
    tokens = torch.tensor([[1, 2, 3, 4] * 4])
    with torch.no_grad():
        assert not torch.allclose(further(tokens).hidden, base(tokens).hidden)
    rows = (made / "training_log.csv").read_text().splitlines()
    assert {"loss", "mdm", "corrector"} <= set(rows[0].split(","))


def test_a_hosts_model_is_trained_on_with_data_alone_and_never_onto_itself(checkpoint: Path) -> None:
    given = [*SMALL, f"model={checkpoint}", "corrector.weight=1"]
    out = checkpoint.parent / "further"
    with pytest.raises(ConfigError, match="data is not set"):
        train("mdm", load([*given, f"out={out}"]))
    with pytest.raises(ConfigError, match="is the model that is trained on"):
        train("mdm", load([*given, f"data={checkpoint.parent / 'rows.jsonl'}", f"out={checkpoint}"]))
    with pytest.raises(ConfigError, match=r"train.tune = head: .* choose lora or full"):
        train("mdm", load([*given, f"out={out}", "train.tune=head"]))


def test_projections_are_found_by_what_architectures_call_them() -> None:
    def model(*names: str) -> torch.nn.Module:
        return torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in (*names, "out")})

    assert find_targets(model("q_proj", "k_proj", "v_proj", "o_proj")) == ["q_proj", "k_proj", "v_proj"]
    assert find_targets(model("query", "key", "value")) == ["query", "key", "value"]
    assert find_targets(model("qkv")) == ["qkv"]
    with pytest.raises(ConfigError, match=r"no projections of an attention were found: .*: out, w1"):
        find_targets(model("w1"))


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({}, ["trust_remote_code=false"], "pass trust_remote_code=true"),
        ({}, ["data="], "data is not set: name what to train on"),
        ({"model_type": "gpt"}, [], "is a model of type 'gpt', which none of the hosts "),
        (
            {"mask_token_id": None},
            ["tokenizer"],
            "mask_id = 126336 is outside the vocabulary: allowed 0 to 11",  # the one that every LLaDA has
        ),
        ({"model_type": None}, [], "does not say what model it is"),
        ({}, ["quality.k=9"], "quality.k = 9 is more than the 4 positions that a text can mask"),
        ({}, ["data.length=4"], "line 1: too long: 6 tokens, and 4 are what data.length allows"),
        ({}, ["model=nowhere"], "no model at 'nowhere'. Embedded models: "),
        ({}, ["train.report=tensorbord"], "Nearest: tensorboard"),
        ({}, ["train.tune=lara"], "train.tune 'lara' is not known. Nearest: lora."),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_any_work(
    checkpoint: Path, change: dict, settings: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | change
    (checkpoint / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    if "tokenizer" in settings:
        settings = []
        file = checkpoint / "tokenizer_config.json"
        kept = {k: v for k, v in json.loads(file.read_text()).items() if k != "mask_token"}
        file.write_text(json.dumps(kept))
        (checkpoint / "special_tokens_map.json").unlink(missing_ok=True)
    out = checkpoint.parent / "out"
    given = [*SMALL, JUDGED, LOW, f"model={checkpoint}", f"data={checkpoint.parent / 'rows.jsonl'}", f"out={out}"]
    given += settings
    assert cli.main(["train", "quality", *given]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert said in err and err.startswith("prism: ")
    assert not out.exists() or not any(out.iterdir())
