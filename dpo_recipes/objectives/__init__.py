"""Objectives, one file each: the trainer that a recipe asks for. `registry.OBJECTIVES` lists them."""
