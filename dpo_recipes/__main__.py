"""`python -m dpo_recipes` is the same command as `dpo-recipe`."""

import sys


def main() -> None:
    """Load the command and run it; Ctrl-C ends it quietly from the first moment on."""
    try:
        from dpo_recipes.cli import main as command
    except KeyboardInterrupt:
        from dpo_recipes.errors import EXIT_INTERRUPTED

        sys.exit(EXIT_INTERRUPTED)
    command()


if __name__ == "__main__":
    main()
