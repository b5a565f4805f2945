"""Sampling: a state, parts that compose (score, select, act, guard, fill), generators over them, and one driver."""
