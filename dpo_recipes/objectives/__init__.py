"""Objectives, one file each: the trainer that a recipe's `objective` section builds. `registry.OBJECTIVES` lists them."""
