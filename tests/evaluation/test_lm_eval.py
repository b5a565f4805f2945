"""The model ``prism`` and the task ``prism_sudoku`` under the real lm-eval, with a tiny model."""

import json
import pickle
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import get_model

from prism_plugin.errors import CheckpointError, ConfigError, DataError
from prism_plugin.evaluation import evaluate
from prism_plugin.evaluation import lm_eval as backend
from prism_plugin.evaluation.arguments import generation
from prism_plugin.integrations.llada.adapter import LLaDADenoiser
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.tasks import get_task
from tests.hosts.llada_like.modeling import build

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "prism_plugin/evaluation/tasks"
GRID = "1 2 3 4\n. 4 1 2\n.143\n4.21\n"


def tiny(folder: Path, box: int) -> str:
    """A folder with an untrained model of Sudoku; what it writes is nonsense, but always the same."""
    torch.manual_seed(0)
    size = box * box
    config = BackboneConfig(
        vocab_size=size + 1, mask_id=0, length=size * size, grid=box, hidden_size=16, num_layers=1, num_heads=2,
        cond_size=8,
    )  # fmt: skip
    PrismModel(config, "sudoku" if box == 3 else "sudoku4").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model4(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("sudoku4"), 2)


def requests(*contexts: str, **asked: object) -> list[Instance]:
    return [Instance("generate_until", {}, (context, {"until": [], **asked}), n) for n, context in enumerate(contexts)]


def test_registered_and_generating_what_keeps_the_clues(model4: str) -> None:
    lm = get_model("prism").create_from_arg_string(f"model={model4},sampler=random,sampler.steps=4")
    answer = lm.generate_until(requests("Solve.\n" + GRID), disable_tqdm=True)[0]
    cells = [int(c) for c in answer.split()]
    clues = [int(c) for c in GRID.replace(".", "0") if c.isdigit()]
    assert len(cells) == 16
    assert 0 not in cells
    assert all(clue in (0, cell) for clue, cell in zip(clues, cells, strict=True))


def words() -> PreTrainedTokenizerFast:
    """Byte pairs of a few words, with the special tokens and the template of a chat model."""
    special = ["<eot>", "<bos>", "<mask>", "<turn>"]
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    learn = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokens.train_from_iterator(["what is it? the answer is forty two. "] * 9, learn)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token="<eot>", bos_token="<bos>", mask_token="<mask>", pad_token="<eot>",
        additional_special_tokens=["<turn>"],
    )  # fmt: skip
    made.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<turn>{{ m.content }}<eot>{% endfor %}{% if add_generation_prompt %}<turn>{% endif %}"
    )
    return made


def hosted(**given: object) -> backend.PrismLM:
    """A stand-in for LLaDA, handed over as a model with its tokenizer."""
    tokenizer = words()
    host = build(vocab_size=304, embedding_size=304, mask_token_id=tokenizer.mask_token_id, max_sequence_length=64)
    given = {"sampler": "random", "sampler.steps": 4, "device": "cpu", **given}
    return backend.PrismLM(host, tokenizer=tokenizer, **given)


TEXTS = ["what is it?", "it", "what is it? the answer is forty", "forty two. it is the answer. " * 3]
ASKED = {"max_gen_toks": 8, "temperature": 1.0}


def test_answers_depend_on_nothing_but_content_and_repeat() -> None:
    """The batch size, the order, what else is asked for, and who asks."""
    whole = hosted().generate_until(requests(*TEXTS, **ASKED))
    for size in (1, 3):
        assert hosted(batch_size=size).generate_until(requests(*TEXTS, **ASKED)) == whole
    assert hosted().generate_until(requests(*reversed(TEXTS), **ASKED)) == whole[::-1]
    assert hosted().generate_until(requests(TEXTS[2], **ASKED)) == whole[2:3]
    assert hosted().generate_until(requests(*TEXTS, TEXTS[0], **ASKED)) == [*whole, whole[0]], (
        "equal content, equal answer"
    )
    assert hosted().generate_until(requests(*TEXTS, **ASKED, seed=1)) != whole


def test_repeats_of_a_request_differ_and_are_what_they_were() -> None:
    one, other = requests(*TEXTS[:2], **ASKED)
    one.repeats = other.repeats = 3
    answers = hosted().generate_until([one] * 3 + [other] * 3)
    assert len(set(answers[:3])) > 1
    assert hosted().generate_until([other] * 3 + [one] * 3) == answers[3:] + answers[:3]
    assert hosted().generate_until([one]) == answers[:1]
    assert hosted().generate_until([one] * 4)[3] == answers[0], "what fills up a rank is nothing new"


def test_what_was_answered_is_kept_by_content_settings_and_model() -> None:
    lm = hosted()
    lm.store = {}
    first = lm.generate_until(requests(*TEXTS, **ASKED))
    lm._generate = lambda jobs: iter([pytest.fail("made again") for _ in jobs])
    assert lm.generate_until(requests(*TEXTS, **ASKED)) == first
    assert [a.figures for a in lm.generate_until(requests(*TEXTS, **ASKED))] == [a.figures for a in first]
    for given, asked in (({}, {**ASKED, "steps": 3}), ({"max_length": 60}, ASKED)):
        other = hosted(**given)
        other.store = dict(lm.store)
        other.generate_until(requests(*TEXTS, **asked))
        assert len(other.store) == 2 * len(TEXTS)


def test_answers_say_what_they_cost_and_survive_a_pickle() -> None:
    answer = hosted().generate_until(requests(TEXTS[0], **ASKED))[0]
    assert answer.figures["forwards"] == 4 and answer.figures["tokens"] <= 8 and answer.figures["seconds"] > 0
    again = pickle.loads(pickle.dumps(answer))
    assert again == answer and again.figures == answer.figures


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_gen_kwargs_follow_the_rules_of_lm_eval(name: str) -> None:
    assert generation({"until": "x", name: 3}, 9) == ({"until": ["x"], "max_gen_toks": 3}, {})
    assert generation({"do_sample": False, "temperature": 0.7}, 9)[1] == {"temperature": 0.0}
    assert generation({"do_sample": True, "temperature": 0.7}, 9)[1] == {"temperature": 0.7}
    assert generation({"temperature": 0.7}, 9)[1] == {"temperature": 0.7}
    assert generation({"sampler": "prism", "sampler.steps": 4, "eta": 0.1}, 9)[1] == {
        "name": "prism",
        "steps": 4,
        "eta": 0.1,
    }
    assert generation({"sampler": {"name": "prism", "steps": 4}}, 9)[1] == {"name": "prism", "steps": 4}
    assert generation({}, 9)[0] == {"until": [], "max_gen_toks": 9}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"temprature": 0.3}, "Nearest: sampler.temperature"), ({"sampler": "remdm-cnf"}, "Nearest: remdm-conf"),
        ({"steps": 0}, "steps"), ({"max_gen_toks": -1}, "max_gen_toks"), ({"max_gen_toks": 64}, "no room"),
        ({"num_beams": 4}, "beams"),
    ],
)  # fmt: skip
def test_gen_kwargs_that_cannot_be_are_refused(asked: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        hosted().generate_until(requests(TEXTS[0], **{**ASKED, **asked}))


def test_a_sampler_of_gen_kwargs_is_the_one_that_runs() -> None:
    lm = hosted()
    lm.generate_until(requests(TEXTS[0], **ASKED, sampler="remdm-conf"))
    (used,) = lm.effective["None"]
    assert used["sampler"]["name"] == "remdm-conf" and used["sampler"]["score"] == "written"
    assert used["sampler"]["temperature"] == 1.0 and used["max_gen_toks"] == 8


def test_an_override_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    lm = hosted(**{"sampler.temperature": 0.7})
    lm.generate_until(requests(*TEXTS, max_gen_toks=8, do_sample=False))
    said = [record.getMessage() for record in caplog.records if "temperature" in record.getMessage()]
    assert len(said) == 1 and "0.0" in said[0] and "0.7" in said[0]
    assert lm.effective["None"][0]["sampler"]["temperature"] == 0.0


def test_long_prompts_lose_their_beginning_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    long = "what is it? " * 40
    answers = hosted().generate_until(requests(long, TEXTS[0], **ASKED))
    assert "1 of 2 prompts" in caplog.text and answers[0].figures["truncated"]
    ids = hosted().tok_encode(long)[-(64 - 8) :]
    job = backend.Job(requests(long)[0], 0, "0" * 64, {"max_gen_toks": 8}, None)
    lm = hosted()
    lm._prompt(job)
    assert job.tokens.tolist() == [*ids, *[lm.prism.denoiser.mask_id] * 8]
    refused = hosted(truncation=False).generate_until(requests(long, TEXTS[0], **ASKED))
    assert refused == ["", answers[1]] and "room for 56" in refused[0].figures["failed"]


def test_a_document_that_cannot_be_written_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    lm = backend.PrismLM("code", sampler="random", device="cpu")
    asked = {"max_gen_toks": 4, "steps": 4}
    good, bad = "def f(x):\n", "def \u00fc(x):\n"
    answers = lm.generate_until(requests(good, bad, **asked))
    assert answers[0] and answers[1] == "" and "1 of 2 documents" in caplog.text
    with pytest.raises(DataError, match="not known"):
        lm.generate_until(requests(bad, **asked))


def test_no_tokens_are_no_text_and_a_hole_in_a_prompt_is_text() -> None:
    lm = backend.PrismLM("code", sampler="random", device="cpu")
    assert lm.generate_until(requests("def f(x):\n", max_gen_toks=0)) == [""]
    job = backend.Job(requests("x = '[MASK*4]'\n")[0], 0, "0" * 64, {"max_gen_toks": 3}, None)
    lm._prompt(job)
    assert int((job.tokens == lm.prism.denoiser.mask_id).sum()) == 3
    (filled,) = lm.generate_until(requests("x = [MASK*4]\n", infill=True, steps=4))
    assert filled.figures["tokens"] == 4


def test_the_batch_halves_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hosted().generate_until(requests(*TEXTS[:2], *["it is " + str(n) for n in range(6)], **ASKED))
    lm = hosted(batch_size=8)
    forward = type(lm.prism.denoiser).forward

    def small(self: object, tokens: torch.Tensor, padding: object = None) -> object:
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (a stand-in)")
        return forward(self, tokens, padding)

    monkeypatch.setattr(type(lm.prism.denoiser), "forward", small)
    assert lm.generate_until(requests(*TEXTS[:2], *["it is " + str(n) for n in range(6)], **ASKED)) == whole
    assert list(lm.batch_sizes.values())[:3] == [8, 4, 2]
    assert lm.fitting(64, 20) == 2


def test_auto_is_bounded_and_searched_anew_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    many = requests(*TEXTS, *["it is " + str(n) for n in range(8)], **ASKED)
    whole = hosted(batch_size=1).generate_until(many)
    lm = hosted(batch_size="auto", max_batch_size=3)
    assert lm.generate_until(many) == whole and list(lm.batch_sizes.values()) == [3]
    lm, searched = hosted(batch_size="auto:3"), []
    monkeypatch.setattr(lm, "_slots", lambda jobs: searched.append([len(job.tokens) for job in jobs]) or 2)
    assert lm.generate_until(many) == whole and [len(some) for some in searched] == [4, 4, 4]
    lengths = [length for some in searched for length in some]
    assert lengths == sorted(lengths, reverse=True)


def test_the_flags_of_the_command_line_count_where_they_were_typed(
    model4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lm_eval.__main__", "lm_eval._cli.run"):  # other tests may have run the command in this process
        monkeypatch.delitem(sys.modules, name, raising=False)

    def made(text: str = "") -> backend.PrismLM:
        defaults = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
        return backend.PrismLM.create_from_arg_string(f"model={model4},sampler=random{text}", defaults)

    assert made(",device=cpu").batch_size == 1, "Python means it"
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", object())
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--model", "prism"])
    assert made().batch_size == "auto" and made(",batch_size=1,device=cpu").batch_size == 1
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--batch_size=1"])
    assert made().batch_size == 1 and made(",batch_size=auto:4")._auto == 4


def test_pairs_are_encoded_as_lm_eval_encodes_them() -> None:
    """Against its own TemplateLM, on borders that merge, end in spaces, or have nothing before them."""
    lm = hosted()

    class Theirs(TemplateLM):
        eot_token_id, prefix_token_id = lm.eot_token_id, lm.prefix_token_id
        tok_encode = staticmethod(lm.tok_encode)
        loglikelihood_rolling = generate_until = _loglikelihood_tokens = None

        def loglikelihood(self, requests: list[Instance]) -> list[tuple]:
            self._loglikelihood_tokens = lambda pairs, **_: [(context, answer) for _, context, answer in pairs]
            return super().loglikelihood(requests, disable_tqdm=True)

    pairs = [("what is", " it?"), ("what is ", "it?"), ("wha", "t is it"), ("", "it is"), ("the answer is  ", " two")]
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    assert [lm._encode_pair(*pair) for pair in pairs] == Theirs().loglikelihood(asked)


def test_bos_is_put_first_once_where_it_is_asked_for() -> None:
    lm, bos = hosted(add_bos_token=True), words().bos_token_id
    assert lm.tok_encode("it")[0] == bos and lm.tok_encode("<bos>it") == lm.tok_encode("it")
    assert hosted().tok_encode("it") == lm.tok_encode("it")[1:]


def choices(doc: dict, context: str, *answers: str) -> list[Instance]:
    return [Instance("loglikelihood", doc, (context, answer), n) for n, answer in enumerate(answers)]


def test_likelihoods_do_not_depend_on_what_else_is_asked_for() -> None:
    long = " the answer is forty two. what is it? it is"
    asked = [*choices({"q": 1}, "what is it?", " it", " two", long, long + " forty"), *choices({"q": 2}, "it", long)]
    whole = hosted().loglikelihood(asked)
    assert hosted().loglikelihood(asked[::-1]) == whole[::-1], "to the last bit"
    assert hosted().loglikelihood(asked[2:3]) == whole[2:3]
    assert whole[0].figures["stderr"] == 0.0 and whole[2].figures["stderr"] > 0
    assert hosted(batch_size=3).loglikelihood(asked) == [pytest.approx(value, abs=1e-3) for value in whole]
    assert hosted(**{"sampler.seed": 5}).loglikelihood(asked)[2] != whole[2]


def test_the_choices_of_a_question_share_their_masks() -> None:
    """So that the difference of two that differ little is far surer than either."""
    head = " the answer is forty two. what is it? it is the answer"
    lm = hosted(mc_num=32)
    answers = lm.loglikelihood(choices({"q": 1}, "what is it?", head + " it", head + "."))
    apart = evaluate.margin({"resps": [[answer] for answer in answers]})
    assert apart["stderr"] < 0.5 * min(answer.figures["stderr"] for answer in answers)


def test_one_pass_serves_choices_of_one_token_and_greedy_is_found_on_request() -> None:
    lm = hosted()
    passes = 0
    forward = lm.prism.denoiser.forward

    def counted(*given: object) -> object:
        nonlocal passes
        passes += 1
        return forward(*given)

    lm.prism.denoiser.forward = counted
    found = lm.loglikelihood(choices({"q": 1}, "what is", " it", " the", " answer"))
    assert passes == 1 and [same for _, same in found] == [False] * 3
    row = torch.tensor([*lm.tok_encode("what is"), lm.prism.denoiser.mask_id])
    best = int(lm.prism.denoiser.project(forward(row[None], None), torch.tensor([len(row) - 1]))[0][-1].argmax())
    text = lm.tokenizer.decode([best])
    if lm._encode_pair("what is", text)[1] == [best]:
        assert hosted(is_greedy=True).loglikelihood(choices({"q": 1}, "what is", text))[0][1]


def test_rolling_goes_through_a_text_longer_than_the_model() -> None:
    text = "what is it? the answer is forty two. " * 12
    (whole,) = hosted(likelihood="chain").loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    lm = hosted(likelihood="chain")
    ids, total, before = lm.tok_encode(text), 0.0, [lm.prefix_token_id]
    assert len(ids) > 2 * 63
    for start in range(0, len(ids), 63):
        window = ids[start : start + 63]
        total += lm._window(before, window, 0).value
        before = window[-1:]
    assert whole == pytest.approx(total, abs=1e-3) and whole < 0


def test_templates_are_named_checked_and_go_without_a_system_message_that_they_refuse() -> None:
    lm = hosted()
    history = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "it?"}]
    assert lm.apply_chat_template(history) == "<turn>it?<eot><turn>"
    assert lm.chat_template(True) == words().chat_template and lm.chat_template(False) is None
    with pytest.raises(ConfigError, match="tool_use"):
        lm.chat_template("tool_use")
    before = lm.tokenizer_name
    lm.tokenizer.chat_template += " "
    assert lm.tokenizer_name != before


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="device = 'cuda'"):
        hosted(device="cuda")
    with pytest.raises(ConfigError, match="device"):
        hosted(device="gpu")


def test_how_a_checkpoint_is_loaded_is_for_its_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict = {}

    def load(name: str, **options: object) -> tuple:
        given.update(options, name=name)
        return LLaDADenoiser(build(vocab_size=304, embedding_size=304, mask_token_id=2)), words()

    monkeypatch.setattr(backend, "load_host", load)
    monkeypatch.setattr(backend, "is_ours", lambda name: False)
    asked = {"trust_remote_code": True, "revision": "v2", "mask_id": 2, "device_map": {"": "cpu"}, "sampler": "random"}
    backend.PrismLM("user/model", dtype="bfloat16", **asked, device="cpu")
    assert given == {
        "name": "user/model", "trust_remote_code": True, "mask_id": 2, "dtype": torch.bfloat16, "revision": "v2",
        "device_map": {"": "cpu"},
    }  # fmt: skip
    backend.PrismLM("user/model", **asked, device="cpu")
    assert given["dtype"] == torch.float32, "auto, on a CPU"
    backend.PrismLM("user/model", parallelize=True, sampler="random", device="cpu")
    assert given["device_map"] == "auto"


def test_settings_may_be_nested_as_yaml_has_them(model4: str) -> None:
    lm = backend.PrismLM(model4, sampler={"name": "random", "steps": 5}, cache={"name": "none"}, device="cpu")
    assert lm.prism.config().steps == 5
    with pytest.raises(ConfigError, match=r"cache\.nam"):
        backend.PrismLM(model4, **{"cache.nam": "dual"})


def test_without_a_head_the_score_falls_back(model4: str) -> None:
    assert backend.PrismLM(model4).config_of({}).score == "self_likelihood"
    bare = backend.PrismLM("code", head="none", device="cpu")
    assert bare.config_of({}).score == "self_likelihood" and bare.identity["head"] is None
    assert backend.PrismLM("code", device="cpu").identity["head"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sampler": "pirsm"}, "Nearest: prism"),
        ({"sampler": "random", "sampler.stepz": 4}, "sampler.stepz"),
        ({"sampler": "random", "sampler.eta": 1.4}, "eta"),
        ({"sampler": "random", "batch_size": 0}, "batch_size"),
        ({"samplr": "random"}, "Nearest: sampler"),
    ],
)
def test_wrong_arguments_are_refused_when_the_model_is_made(model4: str, arguments: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        backend.PrismLM(model4, **arguments)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match="no_such_model"):
        backend.PrismLM("no_such_model", sampler="random")


def test_what_a_model_cannot_do_is_refused_before_anything_runs(model4: str) -> None:
    lm = backend.PrismLM(model4, sampler="random")
    task = SimpleNamespace(OUTPUT_TYPE="multiple_choice")
    with pytest.raises(ConfigError, match="'arc' is of output_type 'multiple_choice'"):
        lm.check_tasks({"arc": task})
    with pytest.raises(ConfigError, match="output_type 'multi_turn'"):
        hosted().check_tasks({"mt": SimpleNamespace(OUTPUT_TYPE="multi_turn")})
    with pytest.raises(ConfigError, match=r"Nearest: sampler\.temperature"):
        hosted().check_tasks(
            {"t": SimpleNamespace(OUTPUT_TYPE="generate_until", get_config=lambda name: {"temprature": 1})}
        )
    with pytest.raises(ConfigError, match="chat template"):
        lm.apply_chat_template([])


def test_the_puzzles_are_what_the_script_writes_and_their_solutions_are_right() -> None:
    make_puzzles, utils = (
        SourceFileLoader(f"prism_sudoku_{name}", str(TASKS / "prism_sudoku" / f"{name}.py")).load_module()
        for name in ("make_puzzles", "utils")
    )
    puzzles = utils.puzzles()["test"]
    task = get_task("sudoku")
    first = task.prompts(1, make_puzzles.CLUES, first=make_puzzles.FIRST)[0]
    assert puzzles[0]["puzzle"] == make_puzzles.lines(first)
    assert len(set(puzzles["puzzle"])) == make_puzzles.COUNT == len(puzzles)
    for doc in puzzles:
        assert utils.judge(doc, [doc["solution"]]) == {"solved": 1.0, "cell_accuracy": 1.0}
    doc, other = puzzles[0], puzzles[1]
    assert utils.judge(doc, [other["solution"]])["solved"] == 0.0, "a valid grid that ignores the clues"
    assert utils.judge(doc, ["I cannot"]) == {"solved": 0.0, "cell_accuracy": 0.0}
    assert 0 < utils.judge(doc, [doc["solution"][:40]])["cell_accuracy"] < 0.6


def test_plain_lm_eval_command_finds_model_and_task(tmp_path: Path) -> None:
    """As a user types it; only the start-up line is run by hand, since tests do not need an install."""
    line = (ROOT / "prism_plugin/evaluation/prism_plugin_lm_eval.pth").read_text()
    code = f"exec({line!r}); from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    arguments = f"--model prism --tasks prism_sudoku --limit 2 --output_path {tmp_path}/out --model_args".split()
    settings = f"model={tiny(tmp_path / 'model', 3)},sampler=random,sampler.steps=2"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, settings], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    assert 0 < results["results"]["prism_sudoku"]["cell_accuracy,none"] < 1
    told = results["prism"]["tasks"]["prism_sudoku"]
    assert told["settings"][0]["sampler"]["steps"] == 2 and told["forwards"]["mean"] == 2.0
