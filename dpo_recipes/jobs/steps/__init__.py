"""The kinds of steps that a chain can have, one module for each, and their common interface in `base`.

`registry.STEP_KINDS` lists them. Other packages add theirs through the entry-point group `dpo_recipes.step_kinds`.
"""
