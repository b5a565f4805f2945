"""Around lm-eval's own ``evaluate``, for this model only: what it checks first, what it keeps, and what it tells after.

lm-eval has no hook there. Tasks and their settings are checked before anything runs. ``--use_cache`` keeps its file,
but what is looked up is the content of a request, the settings in force, the repeat and the model, so that nothing is
taken for the answer of another sampler, and a run that was broken off ends as if it had not been. Figures of cost are
read from the answers: by document into the samples, by task under ``prism`` in the results. A sweep runs every
combination.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from . import sweep
from .figures import of_sample, of_task
from .likelihood import Scored


def install() -> None:
    """Put ours around ``lm_eval.evaluator.evaluate``, once."""
    from lm_eval import evaluator

    if not getattr(evaluator.evaluate, "knows_prism", False):
        evaluator.evaluate = around(evaluator.evaluate)


def around(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """``evaluate`` as it was for any other model."""

    @functools.wraps(theirs)
    def evaluate(lm: Any, task_dict: Any, *rest: Any, **given: Any) -> Any:
        from .lm_eval import PrismLM

        model = vars(lm).get("lm", lm)  # of lm-eval's CachingLM
        if not isinstance(model, PrismLM):
            return theirs(lm, task_dict, *rest, **given)
        tasks = leaves(task_dict)
        model.check_tasks(tasks)
        model.chat_template(given.get("apply_chat_template", False))
        if model is not lm:
            model.store = lm.dbdict
            model.set_cache_hook(type(model.cache_hook)(None))
        points = sweep.points(model.arguments.sweep)
        for point in points:
            model.point = point
            model.check_tasks(tasks)
        found = []
        for point in points:
            model.point, model.effective = point, {}
            results = theirs(model, task_dict, *rest, **{**given, "log_samples": True})
            if results is not None:
                found.append(told(model, results, tasks))
        model.point = {}
        if not found:  # another process tells
            return None
        results = (
            found[0] if not model.arguments.sweep else sweep.together(points, found, tasks, model.arguments.report)
        )
        if not given.get("log_samples", True):
            results.pop("samples")
        return results

    evaluate.knows_prism = True  # type: ignore[attr-defined]
    return evaluate


def leaves(tasks: Mapping[Any, Any]) -> dict[str, Any]:
    """All tasks by name, of groups within groups too."""
    if "tasks" in tasks and isinstance(tasks["tasks"], Mapping):
        return dict(tasks["tasks"])
    found: dict[str, Any] = {}
    for name, task in tasks.items():
        found |= (
            leaves(task) if isinstance(task, Mapping) else {str(name): task[1] if isinstance(task, tuple) else task}
        )
    return found


def told(model: Any, results: dict[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Results with figures: ``prism`` in each sample, and by task under ``prism``."""
    by_task = {}
    for name, samples in results["samples"].items():
        repeats = tasks[name].get_config("repeats") or 1
        for sample in samples:  # without what only filled up a process
            sample["resps"] = [answers[:repeats] for answers in sample["resps"]]
        first = {sample["filter"] for sample in samples[:1]}
        by_task[name] = {
            "settings": model.effective.get(name, []),
            **of_task([sample for sample in samples if sample["filter"] in first]),
        }
        for sample in samples:
            sample["prism"] = [
                {key: value for key, value in figures.items() if key != "draws"} for figures in of_sample(sample)
            ]
            apart = margin(sample)
            if apart:
                sample["prism_margin"] = apart
    results["prism"] = {"model": model.get_model_info(), "tasks": by_task}
    return results


def margin(sample: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a question with several choices: by how much the likeliest leads, and the standard error of that."""
    answers = [answer for answers in sample["resps"] for answer in answers[:1]]
    if len(answers) < 2 or not all(isinstance(answer, tuple) and hasattr(answer, "figures") for answer in answers):
        return None
    order = sorted(range(len(answers)), key=lambda n: -answers[n][0])[:2]
    best, second = (_scored(answers[n]) for n in order)
    difference, stderr = best.minus(second)
    return {"best": order[0], "second": order[1], "difference": difference, "stderr": stderr}


def _scored(answer: Any) -> Scored:
    import torch

    draws = answer.figures.get("draws")
    table = None if draws is None else torch.tensor(draws, dtype=torch.float64)
    return Scored(answer[0], answer.figures["stderr"], answer.figures["forwards"], draws=table)
