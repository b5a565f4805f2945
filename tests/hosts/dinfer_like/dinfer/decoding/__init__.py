"""Stands for dInfer: the decoder's base class, a decoder by a threshold, and the loop over blocks without a cache."""
