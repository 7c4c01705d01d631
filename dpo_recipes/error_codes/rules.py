"""R3xx: rules across sections."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # R3xx: rules across sections
    "R301": entry(
        "the model does not exist",
        "A local path names no model folder or GGUF file. Relative paths are taken from the",
        "folder of the recipe that names them, or from the current folder with --set.",
    ),
    "R302": entry(
        "the checksum of a pypi: model",
        "`model.sha256` is the SHA-256 of the model file itself and is required with `pypi:`.",
    ),
    "R303": entry(
        "neither a path nor a hub id",
        "A hub id is `name` or `owner/name`; a wheel's file is pypi:NAME==VERSION/FILE.gguf.",
    ),
    "R304": entry(
        "a data file does not exist",
        "Relative paths are taken from the folder of the recipe that names them, or from the",
        "current folder with --set.",
    ),
    "R305": entry(
        "a kind of data file that cannot be read",
        "Files end in .jsonl, .json, .csv, .tsv, .parquet or .arrow; the first four may",
        "also be compressed: .jsonl.gz.",
    ),
    "R306": entry(
        "a hub field on a local file",
        "`name`, `split` and `revision` select a part of a hub dataset. `limit` works for both.",
    ),
    "R307": entry(
        "two kinds of held-out data",
        "`data.eval` has its own sources or a fraction of the training data, not both.",
    ),
    "R308": entry(
        "training data is also held out", "A model looks good on rows that it was trained on. Use other rows."
    ),
    "R309": entry("evaluation without held-out rows", "`training.eval_steps` needs `data.eval`."),
    "R310": entry(
        "an unknown chat template", "`chat_template` is `tokenizer`, the name of a shipped template, or a .jinja file."
    ),
    "R311": entry(
        "numbers of losses and weights differ", "`loss_weights` has one number for each loss in the `loss_type` list."
    ),
    "R312": entry(
        "exo_pair without label smoothing", "The EXO loss takes the logarithm of label_smoothing; the paper uses 1e-3."
    ),
    "R313": entry(
        "label smoothing that does nothing",
        "Of DPO's losses only robust, exo_pair, aot and aot_unpaired use `label_smoothing`, of CPO's and SimPO's only",
        "sigmoid.",
    ),
    "R314": entry(
        "a setting that the device does not support",
        "A precision, quantization, attention or optimizer; docs/hardware.md has the rules with their sources.",
    ),
    "R315": entry("the device cannot exist here", "MPS is Apple's GPU interface and exists on macOS only."),
    "R316": entry(
        "a library is not installed",
        "The recipe needs a library that this machine lacks; the error says what installs it. A warning in checks,",
        "because the recipe may be for another machine; an error when it is run.",
    ),
    "R317": entry(
        "remote code without permission",
        "A model that needs Python code from its repository runs that code on your",
        "machine. The recipe declares the need; only you, with --trust-remote-code, can allow it.",
    ),
    "R318": entry(
        "another package's entry that cannot be loaded",
        "Other packages may add objectives, guards and data formats through entry points. The import of this one",
        "failed, or it is not what its group of entry points promises.",
    ),
    "R319": entry(
        "a filter with a syntax error",
        "`filter` compares columns of a row: score >= 4 and lang == 'en'. docs/data.md has the grammar.",
    ),
    "R320": entry(
        "a chat template that is not valid Jinja", "The error names the line. Templates are Jinja, as in transformers."
    ),
    "R321": entry(
        "`stable` without a fraction",
        "`stable` decides for each prompt alone. This works only for a fraction, and for all held-out parts at once.",
    ),
    "R322": entry(
        "a column map that cannot be read",
        "In `columns:` the left side is the format's name for a column and the right side yours, a way into an object",
        "(input.text), or a text with columns in braces.",
    ),
    "R323": entry("an unknown data format", "docs/data.md shows every format by example."),
    "R324": entry(
        "`select` without an end", "It keeps the top or the bottom rows by a column: {top: 2000, by: score}."
    ),
    "R325": entry("a mixture with missing weights", "Either every training source has a weight, or none has."),
    "R326": entry("a stream cannot be sliced", "Its length is unknown. Use `limit`, or download the dataset."),
    "R327": entry("a setting that has no effect", "The error says which other setting it needs."),
    "R328": entry("no such split", "`data.eval.split` names another split of the hub datasets in `data.train`."),
    "R330": entry("an unknown hardware profile", "docs/hardware.md lists the named devices."),
    "R331": entry("a quantized base without an adapter", "QLoRA trains an adapter on frozen, quantized weights."),
    "R332": entry("a GGUF base cannot be quantized again", "Its weights are unpacked when they are loaded."),
    "R333": entry(
        "a continued adapter keeps its form", "Its rank, target modules and other settings are part of the adapter."
    ),
    "R334": entry(
        "an initialization that is not possible here",
        "PiSSA and OLoRA change the base's weights; LoftQ is for 4-bit bases.",
    ),
    "R335": entry("optimizer and schedule do not go together", "The error names the combinations that work."),
    "R336": entry("profile and device contradict each other", "`hardware.profile` names a device of another kind."),
    "R337": entry(
        "a module name that the model lacks",
        "Each name in `target_modules` and `modules_to_save` must be the name of a module, or the end of its path; a",
        "pattern must match a whole path. Otherwise only the other names would be trained. Models name their layers",
        "differently: q_proj, k_proj, v_proj in Llama are c_attn in GPT-2. `all-linear` fits every model.",
    ),
    "R338": entry(
        "a list of module names with an invalid item",
        "A list contains names. `all-linear` or a regular expression is one text instead of a list:",
        "target_modules: '.*\\.[qv]_proj'",
    ),
    "R339": entry(
        "an adapter on a module that does not support it",
        "LoRA supports linear layers and embeddings, but not norms, the LM head, or modules that are",
        "trained whole, such as the new head of a reward model.",
    ),
    "R340": entry(
        "processes that do not divide the batch",
        "A step uses the number of rows in the recipe, with any number of processes: each computes an equal share.",
        "If the loss depends on the micro-batch, the share consists of whole micro-batches.",
    ),
    "R341": entry("processes that do not divide among the nodes", "Every node starts the same number."),
    "R342": entry(
        "an offload that the strategy does not support",
        "`ddp` keeps everything on each device; ZeRO-1 and -2 can keep the optimizer state in CPU memory, ZeRO-3",
        "and FSDP also the weights.",
    ),
    "R343": entry(
        "processes or a strategy that the device or the base does not allow",
        "docs/hardware.md has the rules with their sources.",
    ),
    "R344": entry(
        "a setting of DeepSpeed, FSDP or accelerate that cannot be used",
        "It is unknown, nothing would read it, or another field of the recipe sets it.",
    ),
    "R345": entry("launcher and number of processes contradict each other", "`backend: local` starts one process."),
    "R347": entry(
        "several nodes without a rendezvous",
        "`--rendezvous HOST:PORT`, or MASTER_ADDR and MASTER_PORT; docs/launch.md.",
    ),
    "R348": entry(
        "accelerate without several GPUs",
        "On CPUs `accelerate launch` always starts one process; `backend: auto` uses torchrun.",
    ),
    "R350": entry(
        "an adapter given as the base",
        "A folder with adapter_config.json has the weights of an adapter only. `model.path` is the base it was trained",
        "on, and `model.adapter.path` continues the adapter.",
    ),
    "R351": entry(
        "a micro-batch of one row for a loss that compares rows",
        "KTO compares each answer with the KL divergence from the reference, a mean over the rows of a micro-batch.",
        "The mean of one row is too noisy; the authors advise 4 rows or more.",
    ),
    "R352": entry(
        "weights that make every loss 0",
        "KTO multiplies the losses of good answers by `desirable_weight`, those of bad ones by `undesirable_weight`.",
    ),
    "R354": entry(
        "no answers at evaluations",
        "`evaluation.samples_each_eval` takes the first of the `num_samples` prompts, and needs `training.eval_steps`",
        "and a model that generates text.",
    ),
    "R355": entry(
        "no metric to choose by",
        "`keep_best: true`, and `early_stopping` without `metric`, go by the objective's own metric. Another one is",
        "named by its key in metrics.jsonl, without `eval_`, and must have a direction in which values are better.",
    ),
    "R356": entry(
        "a variant of DPO that the loss does not have",
        "`f_divergence_type`, `use_weighting` and a column `weight` change only some losses, and",
        "`f_alpha_divergence_coef`, `discopop_tau` and those of a moving reference belong to one value each.",
    ),
    "R357": entry(
        "a format of rows that the objective cannot learn from",
        "Pairs become labelled rows or answers to imitate if the objective needs them. Pairs cannot be made from",
        "single answers, nor labels for answers without any. D413 is the same fault in data whose format was detected.",
    ),
    "R358": entry(
        "a moving reference that cannot be combined with another setting",
        "`sync_ref_model` copies the trained weights in each process, so nothing may shard them. DPO's metrics compare",
        "the policy with its reference, so evaluations with different references cannot be ranked by `keep_best` and",
        "`early_stopping`.",
    ),
    "R360": entry(
        "a sweep that varies nothing",
        "`sweep` names settings and the values to try: `grid` for all combinations, `zip` for settings that belong",
        "together, `seeds` for repetitions (docs/sweeps.md).",
    ),
    "R361": entry(
        "zipped settings with unequally many values",
        "`zip` takes the first value of each setting, then the second ones. `grid` tries all combinations.",
    ),
    "R362": entry(
        "a setting that cannot be swept",
        "The name and the folder of a trial come from its sweep, and each setting can be in the sweep only once: two",
        "values for one setting would replace each other. With `backend: slurm` all runs are tasks of one array, which",
        "request the same resources, so that `launch`, `hardware.device` and `hardware.profile` are the same for all.",
    ),
    "R363": entry(
        "a range of a sweep without values",
        "`low` is below `high`; with `log`, `low` is above 0 and there is no `step`.",
    ),
    "R364": entry(
        "the metric of a sweep is none to choose by",
        "It is the key of a metric of the objective, without `eval_`, with a direction in which values are better.",
        "`direction` gives one to a metric that has none.",
    ),
    "R365": entry("too many trials", "A sweep has at most 1,000 trials. `max_trials` takes the first ones only."),
    "R366": entry("the same trial twice", "A value is twice in one list. `seeds` repeats trials with other seeds."),
    "R367": entry(
        "a sweep without held-out rows", "The best trial is the best on rows that were not trained on: `data.eval`."
    ),
    "R368": entry(
        "trials or steps on several nodes",
        "Several commands on one sweep or chain each take another run, so a run on several nodes needs a launcher that",
        "starts all of its processes: SLURM.",
    ),
    "R369": entry(
        "sampled settings",
        "`random` and `tpe` draw values for a number of trials, `max_trials`. `grid` and `zip` list all trials, and",
        "cannot be combined with them.",
    ),
    "R370": entry(
        "pruning without evaluations",
        "`sweep.pruning` ends a run whose held-out metric is worse than that of others at the same evaluation.",
    ),
    "R371": entry(
        "a step that does not exist",
        "`step:NAME` in place of a path stands for what the step NAME of the same chain makes. The error lists the",
        "steps that there are.",
    ),
    "R372": entry(
        "steps need each other",
        "A step can begin when the steps that it refers to have finished. In a cycle of references none could begin.",
    ),
    "R373": entry(
        "a step makes something else",
        "What a step makes follows from its kind and its objective: a model, a reward model, data or scores. A base is",
        "a model, a source of rows is data. docs/chains.md has the places where a step can be referred to.",
    ),
    "R374": entry(
        "an adapter of a step without its base",
        "A step with `model.adapter` saves the adapter alone, unless `save_as: merged` or a GGUF base makes it save a",
        "whole model. An adapter cannot be the base of the next step, and it is continued only on its own base.",
    ),
    "R375": entry(
        "a key that a step cannot have",
        "Some keys of a recipe belong to a whole file: schema, name, output_dir, extends. A step is neither a sweep",
        "nor another chain.",
    ),
    "R376": entry(
        "a step is referred to outside a chain",
        "`step:NAME` has a meaning only in the steps of a chain (docs/chains.md). A single recipe names models and",
        "data by their path or hub id.",
    ),
    "R377": entry(
        "answers that cannot be ranked",
        "`kind: sample` ranks the answers to a prompt: there must be two or more that can differ. With greedy",
        "decoding, a model always gives the same answer.",
    ),
    "R378": entry(
        "no round before",
        "`previous:NAME` stands for what the step NAME made in the round before, in a chain with `rounds`. The first",
        "round has none before it: `start: {NAME: PATH}` at the top of the file says what it begins with. A step with",
        "`once: true` is in no round, and `step:NAME` means the last round there.",
    ),
    "R379": entry(
        "rounds that a chain does not have",
        "`rounds` says how often the steps of a chain are done. A key such as `dpo-2` in `steps`, or `--set",
        "steps.dpo-2...`, is for the second round of `dpo`; `start` is for steps that are done in each round;",
        "`prompts: next` needs a `limit`, which says how many rows each round uses.",
    ),
    "R380": entry(
        "a tracker cannot report",
        "It needs a login, an address or a job of its own service, which this machine lacks. A warning in checks,",
        "because the recipe may be for another machine; an error when it is run. docs/tracking.md has the offline",
        "modes.",
    ),
    "R381": entry(
        "a secret in the recipe",
        "Recipes are copied to run directories and trackers, and shared. Secrets come from the environment or from the",
        "login of their service. The value is not shown.",
    ),
    "R382": entry(
        "a step that does the same in each round",
        "In a chain with `rounds`, each step is done again in each round. One that uses nothing of the round before",
        "and has no key of its own for a round, such as a reward model, takes the time again and makes the same.",
    ),
    "R384": entry(
        "a reward model that does not exist",
        "`model` of a reward source is the directory of a finished run, a folder with a config.json, or a hub id.",
    ),
    "R385": entry(
        "a source that is no reward model",
        "A reward model is a sequence classifier with one output; a model that predicts tokens has no head for it.",
    ),
    "R386": entry(
        "a reward function without permission",
        "A recipe names a function, but only you can allow it to run, with `--reward-function FILE.py:NAME`. Read the",
        "file first: it can do anything that you can do.",
    ),
    "R387": entry(
        "a reward function that does not exist or cannot be imported",
        "It is named as FILE.py:NAME, with a file relative to the recipe, and stands on the top level of the file.",
    ),
    "R388": entry(
        "a rule that cannot work",
        "A regular expression of a reward rule is not valid in Python, or the bounds of a length contradict each",
        "other.",
    ),
    "R389": entry(
        "rewards that cannot teach anything",
        "All weights are 0, or the bounds of `reward_clip_range` leave no number. An answer is better than another one",
        "only by its reward.",
    ),
    "R390": entry(
        "warning: nothing is held out", "The training loss also falls if a model only memorizes. Hold out some rows."
    ),
    "R392": entry(
        "warning: a format's name promises another template",
        "Axolotl's chatml.* and llama3.* formats name a template too. Here they only define the columns.",
    ),
    "R393": entry("warning: doubtful on this device", "It works, with the drawback that the warning names."),
    "R394": entry(
        "warning: micro-batches keep their number of rows",
        "`max_tokens_per_pass` fills micro-batches by tokens, but not those of a loss that compares their rows or",
        "averages over their tokens. Their backbone passes still have at most that many tokens.",
    ),
    "R399": entry(
        "warning: steps with different chat templates",
        "A model that was trained with one template answers worse when its prompts are rendered with another one. The",
        "saved model of a step brings the template of its training.",
    ),
    "R395": entry(
        "no room for a prompt",
        "`data.max_length` is for a prompt and its answer, and an answer may have `max_new_tokens`.",
    ),
    "R396": entry(
        "warning: trials are compared by different losses",
        "Settings of the objective, such as `beta`, change the loss as a function. Reward accuracy means the same in",
        "all trials, unless references move: they are then different ones at the end of each trial.",
    ),
    "R397": entry(
        "warning: early stopping comes too late",
        "The first evaluation gives the value to improve on, and `patience` more must fail to. There are fewer before",
        "the last step. F781 is the same where the number of steps depends on the rows.",
    ),
    "R391": entry(
        "a launch that cannot generate answers",
        "Objectives whose policy writes answers need all weights in each process, as `ddp` has them. FSDP and ZeRO-3",
        "would gather the whole model for each token; ZeRO-1 and -2 have not been shown to work.",
    ),
    "R400": entry(
        "vLLM cannot generate for this recipe",
        "vLLM runs on CUDA here, with the base of the recipe in 16 or 32 bits, whose weights the run sends before",
        "each step. The correction of its probabilities needs them for all tokens.",
    ),
}
