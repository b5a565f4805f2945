"""Hydra loads this package by itself (it looks through the namespace ``hydra_plugins``)."""
