"""Passes through a model without weights. The one part of `fit` that loads torch, when it is first asked."""
