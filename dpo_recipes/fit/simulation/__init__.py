"""Passes through a model without weights. Only this part of `fit` loads torch, when it is first used."""
