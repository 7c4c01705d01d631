"""Inspects the rows of a recipe before a model is trained on them."""
