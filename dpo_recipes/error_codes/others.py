"""I: interruptions. U: the command line."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # others
    "I101": entry(
        "interrupted",
        "The run was stopped on request, by Ctrl-C, SIGTERM or a scheduler: in training after a full step and with a "
        "checkpoint, in the reference pass with what it has computed.",
        "The same command goes on from there; exit code 75 says so.",
    ),
    "I130": entry(
        "stopped at once",
        "By a second signal, or by the first one before there was anything to go on from. The same command goes on "
        "from the last checkpoint, if there is one.",
    ),
    "U401": entry("a file exists already", "Nothing is ever overwritten."),
    "U402": entry("a file cannot be written", "Choose another folder, or change its permissions."),
    "U403": entry("an unknown code", "`dpo-recipe explain` lists all codes."),
    "U404": entry(
        "an answer is missing", "`dpo-recipe init` asks on a terminal; elsewhere it needs --model and --data."
    ),
    "U420": entry(
        "an option that sbatch is not given",
        "`--slurm` and DPO_RECIPE_SLURM take sbatch's long options, such as partition=gpu. What follows from the",
        "recipe (time, memory, nodes, output) is set there. docs/clusters.md has the table.",
    ),
    "U421": entry("the setup lines cannot be read", "`--slurm-setup` and DPO_RECIPE_SLURM_SETUP name a text file."),
    "U422": entry("no GPU to look for", "`dpo-recipe launch --export skypilot` takes the GPU from `hardware.profile`."),
    "U423": entry(
        "files that do not travel",
        "A Kubernetes job gets the recipe and nothing else of this computer: models and data come from the hub or an",
        "address. SkyPilot takes local files along.",
    ),
    "U424": entry("no container image", "`dpo-recipe launch --export kubernetes` needs `--image`."),
}
