"""Figures of a run, and the sentence about them."""
