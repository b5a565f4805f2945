"""The lm-eval backend and the offline tasks."""

from pathlib import Path

TASKS = Path(__file__).parent / "tasks"
"""The folder of task definitions, for ``lm_eval --include_path`` where the start-up file is switched off."""
