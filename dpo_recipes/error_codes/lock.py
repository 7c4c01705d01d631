"""S1xx: locks."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # S1xx: locks
    "S101": entry(
        "the lock is damaged",
        "The file NAME.lock.yaml beside the recipe is not what `dpo-recipe lock` writes: it is no YAML, has a key",
        "twice, or lacks one. A merge of two versions by Git is a usual cause.",
        "Restore the file, or make it again: `dpo-recipe lock RECIPE`.",
    ),
    "S102": entry(
        "the lock is from a newer version",
        "A newer dpo-recipe has written the lock in a form that this version does not know.",
    ),
    "S103": entry(
        "the lock was changed by hand",
        "The last line of a lock is the digest of everything else in it. It does not fit: a value was changed.",
        "Change the recipe instead, and make the lock again with `dpo-recipe lock`.",
    ),
    "S104": entry(
        "the lock cannot be written",
        "A lock lies beside its recipe. That folder is not writable, or it belongs to the installed package.",
    ),
    "S105": entry(
        "the lock is that of another recipe",
        "The recipe has another name or other steps than the lock. A copy of a recipe needs a lock of its own.",
    ),
    "S106": entry(
        "a setting differs from the lock",
        "The lock has all settings that determine the result, as parents, defaults and `--set` made them. Settings",
        "that do not change the result may differ: `launch` (if the effective batch stays), `checkpoints`, `tracking`,",
        "`accept_advice`, `summary`, `output_dir`, and guards that do not stop the run.",
        "`dpo-recipe run --lock off` tries another value without the lock; `--update-lock` makes the lock again.",
    ),
    "S107": entry(
        "an input differs from the lock",
        "A file of the model, the tokenizer, the adapter, the chat template or the data has another content than when",
        "the lock was made. The error shows the first digits of both SHA-256 digests, and the sizes.",
    ),
    "S108": entry(
        "the rows differ from the lock",
        "The sources give other rows than when the lock was made, after conversion, selection and splitting.",
        "If the files are the same, another version of a library or of dpo-recipe converts them in another way.",
    ),
    "S109": entry(
        "a file is missing",
        "A model folder lacks a shard that its index names, its weights, or the folder itself is gone. Interrupted",
        "downloads are the usual cause.",
    ),
    "S110": entry(
        "a commit is gone",
        "The hub does not know the repository or the commit any more. Its owner can delete both. The content of the",
        "lock says whether a copy has the same files.",
    ),
    "S111": entry(
        "a gated repository",
        "The owner of the model or dataset gives access only to people who accept terms. Log in with `hf auth login`.",
    ),
    "S112": entry(
        "not in the cache, and no network",
        "What is in the cache is checked without a network. This file or repository is not in it.",
    ),
    "S113": entry(
        "data outside of its repository",
        "The dataset's configuration names files elsewhere, so that the commit does not fix their content.",
    ),
    "S114": entry(
        "packages have other versions",
        "Other versions of torch, transformers, TRL and other libraries may give other results. `--lock inputs` makes",
        "this a warning. Builds of one version, such as 2.13.0+cpu and 2.13.0+cu130, are not distinguished.",
    ),
    "S115": entry(
        "warning: another kind of device",
        "Devices add numbers in other orders and round differently: results agree to a few digits, not to the bit.",
    ),
    "S117": entry("a lock is given as a recipe", "Give the recipe that lies beside the lock."),
    "S116": entry("there is no lock", "`dpo-recipe lock --check` compares a recipe with the lock beside it."),
}
