"""`python -m dpo_recipes` is the same command as `dpo-recipe`."""

from dpo_recipes.cli import main

if __name__ == "__main__":
    main()
