"""Writes docs/methods.md from the table of presets:  python docs/methods.py"""
# ruff: noqa: E501  (a table)

from pathlib import Path
from typing import Any

import prism_plugin.integrations.llada.generate  # noqa: F401  (registers its orders where nothing is installed)
from prism_plugin.sampling.config import Option, SamplerConfig, described, described_parts, resolve
from prism_plugin.sampling.methods import PROBES, SECOND, SHADOWS  # registers every part
from prism_plugin.sampling.parts import registries, scores
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
    "prophet": ("Prophet, arXiv 2508.19982, `generate_earlyexit.py`", "the gap is over the masks of the block (theirs: over five positions where an answer is marked, filled or not), progress over the block's steps (theirs: over all, and all blocks are filled at once); batches"),
    "rdd": ("RDD, arXiv 2602.00150", "written from the abstract, no code found: when it has stalled and what is masked again are ours; no states are kept, a step back costs a pass like any other"),
    "random-remask": ("a control", "PRISM's counts, whom at random"),
    "self-likelihood": ("arXiv 2602.02927", "this pass only, no mean over the run; PRISM's counts"),
    "self-likelihood-mean": ("arXiv 2602.02927", "for texts, in batches; theirs is for images, one at a time; an even order of ties"),
    "dfm": ("ReMDM, after arXiv 2407.15595", "the grid is chosen to end in the given steps (theirs takes 133 for 128); no crash at top_p = 1"),
    "wino": ("WINO, arXiv 2507.18578", "batches, each row its own counts; `tau` is tau2, `fill_bound` tau1 (0.6 is GSM8K's); the mask is never drawn"),
    "tolerator": ("Tolerator, arXiv 2510.05090", "rounds are the second half of the steps; one temperature (0.3) for both halves; batches"),
    "core": ("CoRe, arXiv 2602.04096", "written from the abstract, no code found: 8 probes a block; the shortlist is `remask_share` of the block"),
    "threshold-remask": ("dInfer, arXiv 2510.08666", "by the probability when written; one less than were filled goes out at most"),
    "hierarchy-remask": ("dInfer, `hierarchy_remask`", "each row on its own, tokens as its code for one row; the plan of the steps is a floor"),
    "proseco": ("ProSeCo, arXiv 2602.11590", "each row has its own fixed point; meant for a model trained so"),
    "uniform": ("Duo, arXiv 2506.10892; GIDD, 2503.04482; SCDD, 2603.02230", "x_0 is drawn, then the noisy token by the closed form given it: the law of the sum over x_0; GIDD's own loop begins one step late on what is all masks and ends with a step from a level to itself"),
    "duo": ("Duo, arXiv 2506.10892, `predictor=ancestral noise_removal=greedy`", "the grid ends at t = 0, not at 1e-5; one pass more than its `steps` counts. `sampler=uniform sampler.alpha=loglinear` is `noise_removal=ancestral`, `alpha=cosine` its other noise"),
    "psi": ("Psi-samplers, arXiv 2602.21185, `max-capped-eta`", "eta the same in all steps (`step_on` is not read); `rate=rescale` is eta times the bound, theirs min(eta, bound) times eta"),
    "gidd-correct": ("GIDD, arXiv 2503.04482, `self_correction`", "ends when a pass draws nothing new; theirs also after 32 passes in which no more tokens are the likeliest"),
    "token-critic": ("Token-Critic, arXiv 2209.04439", "every mask is drawn anew each step, visible tokens stay; the critic is a head on the backbone"),
    "remedi": ("RemeDi, arXiv 2509.23653", "random numbers are each position's own; its last release ranks by the likeliest token's logit in place of the confidence"),
    "g-star": ("G-Star, arXiv 2510.08369", "written from a fork; the head is PRISM's instead of one tuned layer"),
    "remdm-conf": ("ReMDM, arXiv 2503.00307", "stored probabilities in f32, not bf16"),
    "remdm-cap": ("ReMDM", ""),
    "remdm-rescale": ("ReMDM", ""),
    "remdm-loop": ("ReMDM", "eta is bounded so that the marginals hold"),
    "remdm-llada": ("ReMDM on LLaDA", "the loop starts at 7/8 of the tokens, not at a step numbered in tokens"),
    "forward-backward": ("ReMDM", "sigma bounded by (1 - alpha_s) / alpha_t: theirs gives negative weights at the end"),
    "p2-self": ("P2, arXiv 2502.03540", "scores the token that stands there, as the paper; some ports score the model's pick"),
    "rcr": ("RCR, arXiv 2508.13148", ""),
    "saber": ("Saber, arXiv 2510.18165", "lowest p(x_i), as on Dream; `score=confidence_drop` is the rule on LLaDA"),
    "t2t": ("LLaDA 2.1, arXiv 2602.08676", "a text that comes back ends the editing (theirs: 16 rounds); meant for models trained to edit"),
    "t2m": ("arXiv 2604.18738", "one of its three rules: the model is surer than 0.9 of another token"),
    "gibbs": ("arXiv 2605.22765, for masks", "redraws `num_remask` at random with the plan's fills; exact where it fills nothing else"),
    "prism": ("PRISM, arXiv 2510.01384, Sudoku", "counts per row, prompts are never touched, even split of the steps"),
    "prism-share": ("this project", "the lowest share of what is visible, none at the end, as many in all at any number of steps"),
    "prism-text": ("PRISM, OpenWebText", "alpha over what is to be written, not over the prompt too; each row its own draw"),
    "prism-loop": ("PRISM, loop refinement", "loops are the last fifth of the steps"),
    "prism-llada": ("PRISM's score in LLaDA's order", "a fixed count every step; `prism-code` has the published one"),
    "prism-code": ("PRISM, MBPP", "revisions that cannot be spent cost no fills"),
    "prism-2pass": ("NAVIRA, arXiv 2606.06031", "written from the abstract"),
    "prism-evidence": ("this project", "no number in it depends on the length or the steps"),
    "cavity-evidence": ("this project", "`prism-evidence` with the backbone's own g: the yardstick of every head"),
    "shadow-evidence": ("this project", "the same posterior nearly, in one pass: a shadow that sees the text but its own token"),
    "prism-correct": ("this project", "for finished texts: g below `tau` out, filled from the cleaned text, until it is stable"),
    "prism-adaptive": ("this project, with e-BH (arXiv 2009.02824)", "the number remasked follows from the scores; ends when a pass finds nothing"),
}  # fmt: skip
FORWARDS = {
    "revise_and_fill": "1", "fill_and_revise": "1", "revise_then_loop": "1", "two_pass": "2", "fill_and_judge": "2",
    "joint_probe": "1, and 1 where it probes", "argmax_fill": "1, and up to `rounds` where it corrects",
    "redraw": "1", "keep_best": "1", "go_back": "1, and a block's again where it goes back", "policy": "1", "shadow": "1 over text and block", "shadow_first": "1 over text and block",
}  # fmt: skip
TRAINING = {"quality": "PRISM head", "evidence": "PRISM head", "critic": "critic head", "policy": "`remedi` head"}
MODELS = {
    "proseco": "a model trained on its own fills", "t2t": "none; better with a model trained to edit",
    "uniform": "`prism train mdm noise=uniform` (or `hybrid`)", **dict.fromkeys(
        ("duo", "psi", "gidd-correct"), "a model of such noise"
    ),
}  # fmt: skip

FAULTS = """
## Faults of published code that are not copied

- PRISM's release for LLaDA: mode `remdm_conf` overwrites its stored score by the head's, so that it is PRISM; remasks
  that cannot be spent are lost. Its DiT sampler takes the remask count of row 0 for the whole batch, and masks prompt
  tokens of rows with fewer blanks than configured.
- ReMDM: forward-backward has negative weights near the end; DFM crashes unless nucleus_p < 1; `semi_ar` is broken.
- LLaDA: `confidence_eos_eot_inf` demotes EOS at temperature 0 only; classifier-free guidance fails without an
  attention mask. Dream: on ragged batches visible tokens are overwritten by masks.
- Fast-dLLM: `factor` takes the last token without its bound; the batched dual cache breaks on uneven lengths.
- RCR's code may remask finished blocks, which are then never filled; Tolerator's, Saber's and WINO's work for one text
  at a time; WINO's may draw the mask itself; Saber's may overwrite a token when a single mask is left.
- GIDD's loop begins at the second level on a text of masks alone, and its last pass goes from a level to itself. Duo's
  psi sampler has kappa = 1 at the end of each segment, and an assertion fails where a segment has one step. Prophet's
  released code looks at the first row of a batch only.
"""
PARTS_HAVE = """
A part may have options of its own, listed with it below. `sampler.tau=0.3` sets one where a single part of the sampler
has it, `sampler.select.tau=0.3` where several do; in YAML also `select: {name: below, tau: 0.3}`. A part of your own
declares them beside its function and receives them, checked, as its last argument:

```python
@dataclass
class Below:
    tau: float = option(0.1, "a lower score is doubted", low=0)  # prism_plugin.options


def below(scores, state, options: Below):
    return scores, (state.open & (scores < options.tau)).sum(dim=1)
```

What judges whole texts (`score=verifier`), and a policy that decides of every position (`method=policy`, a network or a
function), are Python callables, or MODULE:NAME of one, which may lie in the folder that the command runs in:

```
$ cat judge.py
from prism_plugin.tasks import get_task

def solved(tokens):                                # (B, L) -> (B,): how good each text is; 1 passes
    return get_task("sudoku").accuracy(tokens, tokens)[0].float()

$ prism sample count=4 sampler=random sampler.score=verifier sampler.verifier=judge:solved sampler.select=below \\
    sampler.tau=0.5 sampler.guard=share sampler.fill_share=0.5
```

In Python: `prism.generate(tokens, "random", score="verifier", verifier=solved, select="below", tau=0.5, guard="share")` and
`prism.generate(tokens, "random", method="policy", policy=network)`, where `network(confidence, masked, progress)` gives 0
(leave), 1 (unmask) or 2 (remask) for every position (after arXiv 2512.09106).
"""


def table() -> str:
    """The page as Markdown. KeyError for a preset that nobody has described."""
    lines = [
        "# Methods\n",
        "Written by `python docs/methods.py` from `prism_plugin/sampling/presets.py`. Every word and number of a preset can",
        "be replaced: `sampler=prism sampler.score=evidence sampler.guard=gate+share`. What is not named keeps its default.",
        "`prism schedule sampler=NAME --plot FILE` draws what a preset does. A part or preset of a third party comes by an",
        "entry point in the group `prism_plugin.<kind>` (`prism_plugin.score`, `prism_plugin.preset`, …). What a host cannot",
        "give is refused when the sampler is built.\n",
        "| preset | source | parts | training | forwards a step | the host must give | differences from the published code |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in presets:
        config = resolve(SamplerConfig(name))
        source, differs = ABOUT[name]
        parts = ", ".join(f"{key}={value}" for key, value in presets[name].items())
        fills_only = config.score == "none" and config.method == "revise_and_fill"
        forwards = "at most 1" if fills_only else FORWARDS[config.method]
        forwards += ", and `cavity_groups` where it revises" * ("cavity" in scores[config.score].needs)
        training = MODELS.get(name, TRAINING.get(config.score, "none"))
        cells = (f"`{name}`", source, parts or "-", training, forwards, _host(config), differs or "-")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [FAULTS, "## Settings of every sampler\n"]
    lines += [_bullet(each) for each in described(SamplerConfig("random")) if not each.part]
    lines += [PARTS_HAVE, "## Parts\n"]
    for kind, registry in registries.items():
        lines.append(f"**{kind}**\n")
        for name in registry:
            lines.append(f"- `{name}`: {_first_line(registry[name])}")
            lines += [f"  {_bullet(each)}" for each in described_parts() if each.part == f"{kind}={name}"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _bullet(each: Option) -> str:
    allowed = f", {each.allowed}" if each.allowed else ""
    return f"- `{each.key}` ({each.value}{allowed}): {each.line}"


def _host(config: Any) -> str:
    """What a host must give beyond logits of masks."""
    needs = scores[config.score].needs
    wants = ["hidden states"] if "head" in needs else []
    wants += ["logits of visible tokens"] if "view" in needs and "head" not in needs else []
    cavity = "cavity" in needs
    wants += ["a second forward"] if config.method in SECOND or cavity else []
    wants += ["of other tokens"] if config.method in PROBES or cavity else []
    wants += ["positions, a 2-D mask"] if config.method in SHADOWS else []
    return ", ".join(wants) or "-"


def _first_line(part: object) -> str:
    return (getattr(part, "function", part).__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(table())
