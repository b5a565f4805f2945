"""Writes docs/methods.md from the table of presets:  python docs/methods.py"""
# ruff: noqa: E501  (a table)

from pathlib import Path

import prism_plugin.integrations.llada.generate  # noqa: F401  (registers its orders where nothing is installed)
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.methods import check  # noqa: F401  (registers every part)
from prism_plugin.sampling.parts import PARTS, scores
from prism_plugin.sampling.presets import presets

# preset: (source, how it differs from the published code)
ABOUT = {
    "mdlm": ("MDLM, arXiv 2406.07524", "ends at noise level 0 instead of 1e-5 and an argmax; `analytic` is the same law"),
    "random": ("LLaDA, arXiv 2502.09992, `remasking=random`", ""),
    "confidence": ("LLaDA, `low_confidence`", "a quota above the masks of a block never reaches into the next block"),
    "margin": ("Dream, arXiv 2508.15487, `topk_margin`", "even split of the steps, each row its own count"),
    "entropy": ("Dream, `entropy`", "the same"),
    "dream-origin": ("Dream, `origin`", "the grid ends at 0, not at 1e-3"),
    "dream-maskgit": ("Dream, `maskgit_plus`", "even split of the steps, each row its own count"),
    "threshold": ("Fast-dLLM, arXiv 2505.22618", "the plan of the steps is a floor: set steps to the length for theirs"),
    "factor": ("Fast-dLLM, `factor`", "no off-by-one at the last rank; the plan of the steps is a floor"),
    "eb": ("EB-Sampler, arXiv 2505.24857", "ranked by entropy; written from the paper's rule, not from code"),
    "random-remask": ("a control", "PRISM's counts, whom at random"),
    "self-likelihood": ("arXiv 2602.02927", "this pass only, no mean over the run; PRISM's counts"),
    "remdm-conf": ("ReMDM, arXiv 2503.00307", "stored probabilities in f32, not bf16"),
    "remdm-cap": ("ReMDM", ""),
    "remdm-rescale": ("ReMDM", ""),
    "remdm-loop": ("ReMDM", "eta is bounded so that the marginals hold"),
    "remdm-llada": ("ReMDM on LLaDA", "the loop starts at 7/8 of the tokens, not at a step numbered in tokens"),
    "forward-backward": ("ReMDM", "sigma bounded by (1 - alpha_s) / alpha_t: theirs gives negative weights at the end"),
    "p2-self": ("P2, arXiv 2502.03540", "scores the token that stands there, as the paper; some ports score the model's pick"),
    "rcr": ("RCR, arXiv 2508.13148", ""),
    "saber": ("Saber, arXiv 2510.18165", "lowest p(x_i), as on Dream; `score=drop` is the rule on LLaDA"),
    "t2t": ("LLaDA 2.1, arXiv 2602.08676", "rounds are bounded by the steps; meant for models trained to edit"),
    "t2m": ("arXiv 2604.18738", "one of its three rules: the model is surer than 0.9 of another token"),
    "gibbs": ("arXiv 2605.22765, for masks", "redraws `num_remask` at random with the plan's fills; exact where it fills nothing else"),
    "prism": ("PRISM, arXiv 2510.01384, Sudoku", "counts per row, prompts are never touched, even split of the steps"),
    "prism-text": ("PRISM, OpenWebText", "alpha over what is to be written, not over the prompt too; each row its own draw"),
    "prism-loop": ("PRISM, loop refinement", "loops are the last fifth of the steps"),
    "prism-llada": ("PRISM's score in LLaDA's order", "a fixed count every step; `prism-code` has the published one"),
    "prism-code": ("PRISM, MBPP", "revisions that cannot be spent cost no fills"),
    "prism-2pass": ("NAVIRA, arXiv 2606.06031", "written from the abstract"),
    "prism-evidence": ("this project", "no number in it depends on the length or the steps"),
}  # fmt: skip
FORWARDS = {"two_pass": "2", "revise_and_fill": "1", "fill_and_revise": "1", "revise_then_loop": "1"}


def table() -> str:
    """The page as Markdown. KeyError for a preset that nobody has described."""
    lines = [
        "# Methods\n",
        "Written by `python docs/methods.py` from `prism_plugin/sampling/presets.py`. Every word and number of a preset can",
        "be replaced: `sampler=prism sampler.score=evidence`. What is not named keeps its default. A host must give what",
        "the score reads; methods of 2 forwards need a host that can be asked twice in a step.\n",
        "| preset | source | parts | forwards a step | needs | differences from the published code |",
        "|---|---|---|---|---|---|",
    ]
    for name in presets:
        config = resolve(SamplerConfig(name))
        source, differs = ABOUT[name]
        parts = ", ".join(f"{key}={value}" for key, value in presets[name].items())
        forwards = "at most 1" if config.score == "none" else FORWARDS[config.method]
        needs = scores[config.score].needs
        host = "a trained head, hidden states" if "head" in needs else "logits of visible tokens" if needs else "-"
        lines.append(f"| `{name}` | {source} | {parts or '-'} | {forwards} | {host} | {differs or '-'} |")
    lines.append("\n## Parts\n")
    for kind, registry in PARTS.items():
        lines += [f"**{kind}**\n", *(f"- `{name}`: {_first_line(registry[name])}" for name in registry), ""]
    return "\n".join(lines).rstrip() + "\n"


def _first_line(part: object) -> str:
    return (getattr(part, "function", part).__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(table())
