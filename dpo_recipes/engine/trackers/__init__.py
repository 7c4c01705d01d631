"""Experiment trackers: one class for each, and what keeps a run independent of them."""
