"""I: interruptions. U: the command line."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # others
    "I101": entry(
        "interrupted",
        "The run was stopped on request, by Ctrl-C, SIGTERM or a scheduler. In training it finished its step and wrote",
        "a checkpoint; in the reference pass it saved what it had computed.",
        "The same command resumes from there. The exit code is 75.",
    ),
    "I130": entry(
        "stopped at once",
        "A second signal stopped the run, or the first one before there was anything to resume from. The same command "
        "resumes from the last checkpoint, if there is one.",
    ),
    "U401": entry("a file exists already", "Nothing is ever overwritten."),
    "U402": entry("a file cannot be written", "Choose another folder, or change its permissions."),
    "U403": entry("an unknown code", "`dpo-recipe explain` lists all codes."),
    "U404": entry(
        "an answer is missing",
        "`dpo-recipe init` asks on a terminal; elsewhere it needs --model and --data. `dpo-recipe runs rm` and `prune`",
        "need --yes there.",
    ),
    "U405": entry("an unknown objective", "`dpo-recipe init --objective` takes a `kind` of docs/recipe.md."),
    "U406": entry(
        "runs cannot be compared by this metric",
        "`dpo-recipe report --metric` takes a metric of the runs' objectives whose high or low values are better, and",
        "that at least one of the runs has measured on held-out rows.",
    ),
    "U407": entry(
        "no pairs to measure",
        "`dpo-recipe data --model` measures how similar the chosen and rejected answers of a pair are to the model. It",
        "needs an objective that learns likelihoods from pairs: `dpo`, `orpo`, `cpo` or `simpo`.",
    ),
    "U408": entry(
        "a chain where one recipe is needed",
        "This command reads one recipe. Of a chain, give the recipe of a step: `dpo-recipe show` prints the values of",
        "each step, and docs/chains.md has the commands that take chains.",
    ),
    "U420": entry(
        "an option that cannot be passed to sbatch",
        "`--slurm` and DPO_RECIPE_SLURM accept sbatch's long options, such as partition=gpu. Options that follow from",
        "the recipe (time, memory, nodes, output) are set there. docs/clusters.md has the table.",
    ),
    "U421": entry("the setup lines cannot be read", "`--slurm-setup` and DPO_RECIPE_SLURM_SETUP name a text file."),
    "U422": entry("no GPU is named", "`dpo-recipe launch --export skypilot` takes the GPU from `hardware.profile`."),
    "U423": entry(
        "local files in a Kubernetes job",
        "A Kubernetes job gets only the recipe from this computer: models and data must come from the hub or a URL.",
        "SkyPilot can upload local files.",
    ),
    "U424": entry("no container image", "`dpo-recipe launch --export kubernetes` needs `--image`."),
}
