"""Figures: they draw numbers that come in as arguments, and compute nothing."""
