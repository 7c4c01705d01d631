"""dpo-recipe: one YAML recipe in, one preference-optimized language model out."""

__version__ = "0.1.0"
