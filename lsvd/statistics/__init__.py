"""Intervals, distances of sets of pictures, and verdicts."""
