"""Trajectories: drawn, taken up again, inverted, and kept on disk."""
