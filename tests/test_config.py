"""Settings: merged, checked and refused before any work, with the nearest name that is known."""

import pytest

from prism_plugin.config import Config, load
from prism_plugin.errors import ConfigError
from prism_plugin.sampling.config import SHARED, SamplerConfig, described, fitting, resolve
from prism_plugin.sampling.presets import presets


def test_overrides_reach_their_place_and_leave_the_rest_alone() -> None:
    config = load(["task=sudoku4", "train.steps=7", "backbone.time_conditioning=true", "sampler.step_on=0.5"])
    assert (config.task, config.train.steps, config.backbone.time_conditioning) == ("sudoku4", 7, True)
    assert config.sampler.step_on == 0.5
    assert load() == Config()


def test_a_groups_name_is_short_for_the_group() -> None:
    config = load(["data=rows.jsonl", "data.length=8", "head=linear"])
    assert (config.data.name, config.data.length, config.head.name) == ("rows.jsonl", 8, "linear")


@pytest.mark.parametrize(
    "order", [("sampler=prism-evidence", "sampler.tau=0.3"), ("sampler.tau=0.3", "sampler=prism-evidence")]
)
def test_a_samplers_name_is_short_for_sampler_name_in_any_order(order: tuple[str, str]) -> None:
    sampler = load(order).sampler
    assert (sampler.name, resolve(sampler).options["select.tau"]) == ("prism-evidence", 0.3)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trian.steps=3", "'trian' is not known. Nearest: train."),
        ("train.step=3", "'train.step' is not known. Nearest: train.steps."),
        ("sampler.ета=3", "not known"),
        ("train.steps=many", "train.steps = 'many'"),
        ("train.steps=0", "allowed steps >= 1"),
        ("train.lr=-1", "allowed lr > 0"),
        ("train.lr=nan", "allowed lr > 0"),
        ("train.ema=1", "allowed 0 <= ema < 1"),
        ("train.accumulate=0", "allowed accumulate >= 1"),
        ("train.tune=lara", "Nearest: lora."),
        ("train.report=tensorbord", "Nearest: tensorboard."),
        ("train.eval_forwards=-1", "allowed eval_forwards >= 0"),
        ("data.length=-1", "allowed length >= 0"),
        ("data.held_out=0", "allowed 0 < held_out < 1"),
        ("lora.r=0", "allowed r >= 1"),
        ("lora.alpha=-1", "allowed alpha >= 0"),
        ("lora.dropout=1", "allowed 0 <= dropout < 1"),
        ("quality.k=0", "allowed k >= 1"),
        ("quality.fills=stail", "Nearest: stale."),
        ("quality.top_p=0", "allowed 0 < top_p <= 1"),
        ("quality.temperature=-1", "allowed temperature >= 0"),
        ("quality.mdm_weight=nan", "allowed mdm_weight >= 0"),
        ("train=3", "train.<key>=<value>"),
        ("sampler.protect_end=3", "protect_end = 3: allowed true or false"),
        ("steps", "not key=value"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"name": "pirsm"}, "'pirsm' is not known. Nearest: prism"),
        ({"steps": 0}, "sampler.steps = 0"),
        ({"name": "remdm-cap", "eta": 1.4}, "sampler.rate.eta = 1.4: allowed >= 0, <= 1"),
        ({"name": "remdm-cap", "eta": -0.1}, "sampler.rate.eta = -0.1"),
        ({"tau": 0.1}, "sampler.tau: 'prism' has no part with it; select=below, select=discoveries, order=hierarchy"),
        ({"name": "hierarchy-remask", "tau": 0.1}, "write sampler.select.tau= or sampler.order.tau="),
        ({"select": "below", "order.tau": 0.1}, "sampler.order.tau: 'prism' has no part with it; order=hierarchy has"),
        ({"select": {"name": "below", "tua": 1}}, "'sampler.select.tua' is not known. Nearest: sampler.select.tau"),
        ({"select": "below", "tau": "much"}, "sampler.select.tau = 'much'"),
        ({"guard": "gate+share", "remask_share": 2}, "sampler.guard.remask_share = 2.0: allowed >= 0, <= 1"),
        ({"refill": "wiat"}, "Nearest: wait"),
        ({"order": "confidense"}, "Nearest: confidence"),
    ],
)
def test_a_wrong_sampler_is_refused(setting: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(SamplerConfig(**setting))


@pytest.mark.parametrize(
    "settings",
    [
        ["sampler.select=below", "sampler.select.tau=0.3"],
        ["sampler.select.tau=0.3", "sampler.select=below"],
        ["sampler.select={name: below, tau: 0.3}"],
        ["sampler.select=below", "sampler.tau=0.3"],
    ],
)
def test_an_option_is_spelled_flat_or_with_its_part(settings: list[str]) -> None:
    found = resolve(load(settings).sampler)
    assert (found.select, found.options) == ("below", {"select.tau": 0.3, "fill.fill_least": 0})


@pytest.mark.parametrize("name", list(presets))
def test_settings_are_taken_back_as_they_are_told(name: str) -> None:
    resolved = resolve(SamplerConfig(name))
    assert resolve(SamplerConfig(**resolved.settings())) == resolved == resolve(resolved)
    told = {(each.part.partition("=")[0], each.key): each.value for each in described(resolved)}
    options = {tuple(key.split(".")): value for key, value in resolved.options.items()}
    assert told == {("", name): getattr(resolved, name) for name in SHARED} | options


def test_options_go_with_the_part_that_was_replaced() -> None:
    """The preset's tau was for select=below; the user's own is refused, and what another sampler has of it stays."""
    assert resolve(SamplerConfig("prism-evidence", select="fixed")).options["select.num_remask"] == 4
    given = {"name": "prism", "num_remask": 2, "steps": 9, "order": "margin"}
    assert fitting(given, "prism-llada") == {**given, "name": "prism-llada"}
    assert fitting(given, "prism-text") == {"name": "prism-text", "steps": 9, "order": "margin"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cooldown": 3, "refill": "stale"}, "sampler.refill, sampler.cooldown: 'mdlm' only fills"),
        ({"select": "below", "tau": 0.3}, "sampler.select, sampler.tau: 'mdlm' only fills"),
        ({"num_remask": 3}, "sampler.num_remask: 'mdlm' only fills"),
        ({"guard": "share"}, "sampler.guard: 'mdlm' only fills"),
        ({"guard": "share+gate", "remask_share": 0.5}, "sampler.guard, sampler.remask_share: 'mdlm' only fills"),
        ({"step_on": 0.5}, "sampler.step_on: 'mdlm' only fills"),
        ({"fill": "count", "rate": "cap"}, "sampler.rate: 'mdlm' only fills"),
    ],
)
def test_a_setting_of_revision_is_refused_where_nothing_is_revised(given: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(SamplerConfig("mdlm", **given))
    assert resolve(SamplerConfig("mdlm", score="random", **given)).score == "random"
    resolve(SamplerConfig("mdlm", refill="wait", step_on=0, num_remask=4))  # the defaults, said
    assert resolve(SamplerConfig("mdlm", rate="cap", step_on=0.5)).rate == "cap", "fill=hazard goes by it"


def test_settings_for_another_sampler_leave_out_what_a_filler_would_not_read() -> None:
    kept = fitting(
        {"name": "prism", "refill": "stale", "select": "below", "tau": 0.3, "steps": 9, "top_p": 0.5}, "mdlm"
    )
    assert kept == {"name": "mdlm", "steps": 9, "top_p": 0.5}
    assert fitting({"name": "prism", "refill": "stale", "steps": 9}, "self-likelihood")["refill"] == "stale"
