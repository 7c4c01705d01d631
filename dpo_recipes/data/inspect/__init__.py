"""Inspects the pairs of a recipe before a model is trained on them."""
