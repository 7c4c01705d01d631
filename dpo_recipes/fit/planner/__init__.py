"""Predicts what a job needs, and finds changes that make it fit."""
