"""Explanations of all error codes. The first letter determines the exit code: see `errors.EXIT_CODE_BY_LETTER`."""

from dpo_recipes.error_codes import artifacts, data, fit, foreign, lock, model, others, recipe, rules, run
from dpo_recipes.error_codes.entry import CodeEntry

__all__ = ["CODES", "CodeEntry"]

CODES = {
    **recipe.CODES,
    **rules.CODES,
    **data.CODES,
    **model.CODES,
    **run.CODES,
    **fit.CODES,
    **others.CODES,
    **lock.CODES,
    **artifacts.CODES,
    **foreign.CODES,
}
