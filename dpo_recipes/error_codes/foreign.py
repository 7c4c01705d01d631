"""S5xx: configurations of other tools."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # S5xx: configurations of other tools
    "S501": entry(
        "a foreign file cannot be read",
        "`dpo-recipe import FILE` takes a configuration of another tool: YAML, JSON, or a shell script that starts the",
        "tool. It is UTF-8 text of at most 1 MB. A script may name a configuration file, which must be there too.",
    ),
    "S502": entry(
        "a foreign file is no configuration",
        "The file is not valid YAML or JSON, has tags, or is a list or a single value. A configuration is a mapping",
        "of keys to values, for example `learning_rate: 5e-6`.",
    ),
    "S503": entry(
        "a key of a foreign file is given twice",
        "Most tools silently use the last one. The import does not guess which one is meant: keep one of them.",
    ),
    "S504": entry(
        "a value of a foreign file is not possible",
        "The key has a value that its own tool would refuse, or that no field of a recipe can have, such as a text",
        "where a number is needed.",
    ),
    "S505": entry(
        "a foreign file lacks something",
        "A recipe needs a base model and training data. The file does not name them, or names them by a variable of",
        "the environment, such as `${oc.env:MODEL}` or `$MODEL`, that only another machine knows. Write the value into",
        "the file. The options of a command line can be given as a script that contains the command.",
    ),
    "S506": entry(
        "it is not known for which tool a file is",
        "The tool is found by keys that it alone has, such as `rl` and `base_model` of Axolotl. `--from TOOL` names",
        "it: axolotl, handbook, llama-factory, ms-swift, oumi or trl (docs/import.md).",
    ),
    "S507": entry(
        "a foreign file trains something else",
        "A recipe learns from pairs, labelled answers, completions or rewards. Pretraining on plain text,",
        "distillation, and reinforcement learning with rewards that are Python code or servers cannot be imported.",
        "docs/rl.md has the rewards of recipes. If the file does not say what it trains, name it with `--objective`.",
    ),
}
