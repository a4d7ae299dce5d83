"""Frozen features: computed once, kept by what they were computed from."""
