"""The lm-eval backend and the offline tasks."""
