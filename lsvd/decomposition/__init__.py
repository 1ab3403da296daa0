"""Singular value decompositions of codes, distances of their subspaces, and triplets through time."""
