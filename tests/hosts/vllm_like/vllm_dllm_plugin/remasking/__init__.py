"""Remasking policies."""
