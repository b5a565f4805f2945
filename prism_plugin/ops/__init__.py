"""The sampler's inner loops: typed faces of the compiled ops, each with a plain PyTorch reference beside it."""

from prism_plugin.ops._load import compiled
from prism_plugin.ops.lists import (
    Rows,
    end_step,
    end_step_ref,
    list_rows,
    list_rows_ref,
    live_rows,
    live_rows_ref,
    spread,
    spread_ref,
)
from prism_plugin.ops.philox import FILL, ORDER, PROBE, REVISE, uniform, uniform_ref
from prism_plugin.ops.sample import Sampled, lm_head_sample, lm_head_sample_ref, sample_rows, sample_rows_ref
from prism_plugin.ops.select import (
    fill_rows,
    fill_rows_ref,
    fill_scatter_,
    fill_scatter_ref_,
    remask_scatter_,
    remask_scatter_ref_,
    select_highest,
    select_highest_ref,
    select_lowest,
    select_lowest_ref,
)

__all__ = [
    "FILL",
    "ORDER",
    "PROBE",
    "REVISE",
    "Rows",
    "Sampled",
    "compiled",
    "end_step",
    "end_step_ref",
    "fill_rows",
    "fill_rows_ref",
    "fill_scatter_",
    "fill_scatter_ref_",
    "list_rows",
    "list_rows_ref",
    "live_rows",
    "live_rows_ref",
    "lm_head_sample",
    "lm_head_sample_ref",
    "remask_scatter_",
    "remask_scatter_ref_",
    "sample_rows",
    "sample_rows_ref",
    "select_highest",
    "select_highest_ref",
    "select_lowest",
    "select_lowest_ref",
    "spread",
    "spread_ref",
    "uniform",
    "uniform_ref",
]
