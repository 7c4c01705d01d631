"""T6xx: running."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # T6xx: running
    "T601": entry(
        "the output folder is not writable", "Runs are written below `output_dir`, relative to the current folder."
    ),
    "T602": entry(
        "no space left",
        "Partly written files never look finished: result.json and model/ appear only when complete. `dpo-recipe runs",
        "prune` removes runs that are not needed. A sweep can be resumed with `--set sweep.keep=best`, which removes",
        "the models and checkpoints of the runs that are not the best.",
    ),
    "T603": entry(
        "out of memory",
        "Halve the micro-batch and double the accumulation: the result stays the same. Then",
        "gradient checkpointing, a shorter max_length, a LoRA adapter instead of full fine-tuning. If the loss",
        "compares the rows of a micro-batch or averages over its tokens, a smaller micro-batch gives other results.",
    ),
    "T604": entry(
        "the loss is not a number",
        "Training has diverged: lower the learning rate. float16 may overflow from the first step on.",
    ),
    "T605": entry(
        "the worker was killed",
        "The cause is a signal from outside or a crash in a library; run.log has its last output.",
    ),
    "T606": entry(
        "prefix sharing does not fit the model",
        "Packed rows need causal attention through SDPA or flash attention, without soft-capped scores, a state",
        "or a balancing loss over experts. `prefix_sharing: auto` computes other models with padded rows.",
    ),
    "T607": entry(
        "a row does not fit into a pass",
        "Raise `training.max_tokens_per_pass`, or lower `data.max_length`. Without prefix sharing, a pair counts as",
        "twice its longer sequence.",
    ),
    "T608": entry(
        "the reference is not a number",
        "Before anything is trained, the base gives NaN or infinity for an answer. float16 may overflow, or",
        "weights may be damaged. Values of earlier rows are kept.",
    ),
    "T609": entry(
        "the model could not be saved",
        "With one process, a checkpoint of the last step is written, and the same command resumes with saving. run.log",
        "has the library's whole message.",
    ),
    "T611": entry(
        "the recipe has changed since the run started",
        "A run is resumed only with the same values of all settings that affect its result. These sections may change:",
        "launch, checkpoints, tracking, output_dir.",
    ),
    "T612": entry(
        "the run hung",
        "There was no step for `launch.watchdog_minutes` and for 20 times the time of a step. Each process wrote the",
        "stacks of its threads to ranks/*/stacks.txt. Often a process waits in a collective for one that is elsewhere.",
    ),
    "T613": entry(
        "processes lost their connection",
        "A process waited `launch.timeout_minutes` for the others, or its connection to them broke: another one died",
        "first, a network failed, or they did not do the same work.",
    ),
    "T614": entry(
        "nothing to resume",
        "`--resume` needs a run without a result.json below `output_dir`, or a chain that was started there.",
    ),
    "T615": entry("the run is still being executed", "A process holds run.lock; the system frees it when that ends."),
    "T616": entry(
        "the data have changed since the run started",
        "A checkpoint records a digest of the tokens of its steps; other tokens would make it another run.",
    ),
    "T617": entry(
        "a checkpoint of another number of processes or strategy",
        "Checkpoints of `ddp` and `fsdp` can be read by any number of processes. Those of DeepSpeed have a part for",
        "each process and need the same number. The strategy must be the same.",
    ),
    "T618": entry(
        "a node cannot read the checkpoint",
        "To resume, a run on several nodes needs its run directory on a shared file system.",
    ),
    "T619": entry(
        "the base has changed since the run started",
        "A checkpoint records a digest of the weights with which training started; other weights would make it another",
        "run. `model.revision` pins a base from the hub.",
    ),
    "T620": entry(
        "another number of processes than planned",
        "Each process computes its share of a step; another number of processes would change the step. The command",
        "in plan.json starts the right number.",
    ),
    "T621": entry(
        "the strategy is not in effect",
        "Libraries fall back silently: accelerate turns FSDP on a CPU into plain DDP. The run checks the class of the",
        "wrapped model, and ends if it is not the one that the strategy needs.",
    ),
    "T622": entry(
        "processes with different data",
        "Each must read the same rows, but files or revisions differ between the nodes.",
    ),
    # T65x: guards. docs/guards.md has thresholds and sources
    "T651": entry(
        "warning: numbers that are not finite",
        "The gradient norm or the held-out loss is NaN or infinite. Clipping multiplies all gradients with the limit",
        "over their norm, so that such a norm reaches every weight, and the loss is not a number from the next step on",
        "(T604). In float16 such steps are left out, which is normal for the first few.",
    ),
    "T652": entry(
        "warning: a spike",
        "The training loss or the gradient norm jumped far above its values of the rows before: the step was too",
        "large, or its rows are unlike the others. One spike may do no harm; see whether the held-out metrics recover.",
    ),
    "T653": entry(
        "warning: chosen answers become less likely",
        "Held-out chosen answers are less likely than under the base, while the margin over the rejected ones grows:",
        "likelihood displacement. Probability moves to answers that are not in the data. The likelihood of the chosen",
        "answers can be added to the loss: `loss_type: [sigmoid, sft]` in `dpo`, `cpo_alpha` in `cpo` and `simpo`.",
    ),
    "T654": entry(
        "warning: saturated pairs",
        "Most training pairs have a reward margin above 4, where their gradient is below 2 %, and the held-out loss",
        "rises: what the model still learns are the pairs that it gets wrong, among them those with a wrong label.",
    ),
    "T655": entry(
        "warning: memorized pairs",
        "The accuracy on training pairs is far above that on held-out ones. Fewer epochs, a lower learning rate or",
        "more pairs help; `keep_best` saves the model that was best on held-out pairs.",
    ),
    "T656": entry(
        "warning: no better than guessing",
        "After many training pairs the interval of the held-out accuracy includes guessing, or is below it. Chosen and",
        "rejected answers may be swapped, the learning rate too low, or the held-out pairs too few to show an effect.",
    ),
    "T657": entry(
        "warning: length",
        "The margin of a pair depends mostly on the lengths of its answers, or the tuned model writes much longer or",
        "shorter answers than the data's chosen and rejected answers explain. `ld_alpha` and `loss_type: sigmoid_norm`",
        "of `dpo`, and `simpo`, reduce the effect of length.",
    ),
    # T66x: trackers
    "T660": entry(
        "warning: a tracker failed",
        "Training does not depend on trackers: it continues, and metrics.jsonl has every row. run.log has the",
        "traceback. docs/tracking.md says how each tracker is reached, and how to report to it offline.",
    ),
    "T658": entry(
        "warning: drift beyond the budget",
        "The tuned model has moved away from its base by more than `guards.drift.nats_per_answer`: the KL divergence,",
        "estimated on its own samples. No budget fits all runs, so there is none unless a recipe sets it.",
    ),
    # T64x: finished runs
    "T640": entry(
        "not the directory of a run",
        "A run directory has resolved.yaml, and result.json when the run has finished. It is not the folder of its",
        "model, nor that of all runs of a recipe.",
    ),
    "T641": entry("the run is unfinished", "result.json is written last: a run without one is unfinished."),
    "T642": entry(
        "the result of the run cannot be read",
        "result.json has another schema than this version reads, or it or resolved.yaml was changed or truncated.",
    ),
    "T643": entry(
        "a run that is not removed",
        "`dpo-recipe runs rm` deletes no run that is being executed or waits in a queue, and without `--unfinished`",
        "none that could be resumed.",
    ),
    "T644": entry(
        "the model of the run was removed",
        "A sweep with `keep: best` removes the models and checkpoints of the runs that are not the best. Everything",
        "else stays, also the recipe of the run, which trains the same model again.",
    ),
    # T68x: evaluations
    "T680": entry(
        "the libraries of BLEU and ROUGE-L are not installed",
        "They come with the extra `evaluate`; everything else that is measured needs no further library.",
    ),
    "T681": entry(
        "no such model",
        "`dpo-recipe evaluate` takes the directory of a finished run or the last part of its name, a folder that",
        "`save_pretrained` wrote, a .gguf file or a hub id. `base` is the base of the first run.",
    ),
    "T682": entry(
        "a reward model gives no answers",
        "It returns one number for a text. It can be a source of rewards for the answers of others.",
    ),
    "T683": entry(
        "there are no rows to evaluate on",
        "The rows are the held-out ones of the first run's recipe, or those that `--data` names. A row is left out if",
        "one of the models cannot read it within its context.",
    ),
    "T684": entry(
        "a probability is not a number",
        "A model gives NaN or infinity. float16 may overflow, or weights may be damaged.",
    ),
    "T685": entry(
        "all answers are empty",
        "The model ends each answer with its first token. Usually the chat template is not the one that it was trained",
        "with.",
    ),
    "T686": entry(
        "no prompt has answers that can be ranked",
        "A preference needs two different answers whose rewards differ by more than `min_difference`. Empty answers",
        "are left out, and those that were cut off unless `cut_off: keep` is set.",
    ),
    # T65x: sweeps
    "T650": entry(
        "all trials of a sweep failed",
        "Each failed run left its error beside its directory, in trials/*.failed.json. A sweep that ended like this is",
        "finished; the next command starts a new one.",
    ),
    "T662": entry(
        "steps of a chain failed",
        "The error names each of them with its reason, and the steps that could not begin without them. The whole",
        "errors are beside the run directories, in steps/*.failed.json. The next command tries the failed steps again,",
        "and keeps those that have finished.",
    ),
    # T67x: rewards
    "T670": entry(
        "a reward source failed",
        "A function raised an error, or a reward model could not compute a text. The last checkpoint is kept, and the",
        "same command resumes from it. run.log has the traceback.",
    ),
    "T671": entry(
        "a reward that is not a number",
        "Each source returns a list with one finite number for each answer: not None, NaN, infinity, true or false.",
    ),
    "T672": entry(
        "all answers are empty",
        "The policy ends every answer of a step with its first token, so that no reward can tell them apart. Often its",
        "chat template is not the one that it was trained with.",
    ),
    "T673": entry(
        "vLLM without a CUDA GPU",
        "`generation: {backend: vllm}` sends the weights of the policy from a CUDA device to vLLM before each step.",
        "transformers generates on every device.",
    ),
    "T674": entry(
        "a vLLM server that cannot be used",
        "It does not answer at its address, or was started without what a run needs: VLLM_SERVER_DEV_MODE=1, an engine",
        "that takes weights, and log-probabilities after the temperature. docs/rl.md has the command.",
    ),
    "T675": entry(
        "vLLM failed",
        "vLLM or its server raised an error at the start, while it took the weights, or while it generated. run.log",
        "has the traceback. The last checkpoint is kept, and the same command resumes from it.",
    ),
    "T676": entry(
        "answers of vLLM that cannot be used",
        "Their number, their lengths, their tokens or their log-probabilities are not those that were requested, which",
        "would train the policy on answers that it has not been given.",
    ),
    "T677": entry(
        "vLLM has another vocabulary or context",
        "Prompts are sent to vLLM as ids of tokens, and answers come back as ids. The model that it serves must be the",
        "base of the recipe, without tokens that the chat template adds, and read as many tokens as `data.max_length`.",
    ),
    # T63x: SLURM
    "T630": entry(
        "SLURM's commands are not installed",
        "Jobs are submitted with sbatch and followed with scontrol, which a cluster's login nodes have.",
    ),
    "T631": entry(
        "SLURM refused the job",
        "The reason is in SLURM's own words. Sites ask for a partition, an account or a quality of service:",
        "`--slurm KEY=VALUE`, DPO_RECIPE_SLURM or SLURM's own SBATCH_ variables (docs/clusters.md).",
    ),
    "T632": entry(
        "no worker started",
        "The job's script ended before the worker reported anything: the node cannot read the run directory or this",
        "Python, or a setup line failed. The run directory must be on a file system that the nodes share.",
    ),
    "T633": entry(
        "the job reached its time limit",
        "SLURM ended the job at its time limit. Before that the workers are asked to write a checkpoint, and the job",
        "requeues itself; `launch.slurm.checkpoint_seconds` is the time they have for it.",
    ),
    "T634": entry(
        "the job used more memory than it had requested",
        "This is CPU memory, not the GPU's: `launch.slurm.memory`, or the partition's default.",
    ),
    "T635": entry("a node of the job failed", "With `launch.slurm.requeue` SLURM restarts the job on other nodes."),
    "T636": entry(
        "the job was cancelled", "It was ended by `scancel` from elsewhere, or for a job of a higher priority."
    ),
    "T637": entry(
        "SLURM no longer knows the job",
        "It keeps ended jobs for a few minutes (MinJobAge), and this one left neither a result nor an exit code.",
    ),
}
