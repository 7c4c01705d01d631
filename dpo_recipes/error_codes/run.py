"""T6xx: running."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # T6xx: running
    "T601": entry(
        "the output folder is not writable", "Runs are written below `output_dir`, relative to the current folder."
    ),
    "T602": entry(
        "no space left", "Nothing half-written is left looking finished: result.json and model/ appear only when whole."
    ),
    "T603": entry(
        "out of memory",
        "Halve the micro-batch and double the accumulation: the result stays the same. Then",
        "gradient checkpointing, a shorter max_length, a LoRA adapter instead of full fine-tuning.",
    ),
    "T604": entry(
        "the loss is no number",
        "Training has diverged: lower the learning rate. float16 may overflow from the first step on.",
    ),
    "T605": entry(
        "the worker was killed", "By a signal from outside or a crash in a library; run.log has its last words."
    ),
    "T606": entry(
        "prefix sharing does not fit the model",
        "Packed rows need causal attention through SDPA or flash attention, without soft-capped scores or state that",
        "passes from token to token in another way, and no balancing loss over a mixture of experts. `prefix_sharing:",
        "auto` computes such models the plain way.",
    ),
    "T607": entry(
        "a pair is longer than a pass may be",
        "Raise `training.max_tokens_per_pass`, or lower `data.max_length`. Without prefix sharing, both rows of a pair",
        "count, as long as the longer one.",
    ),
    "T608": entry(
        "the reference is no number",
        "Before anything is trained, the base gives NaN or infinity for a pair's answer. float16 may overflow; weights",
        "may be damaged. Values of pairs before it are kept, this one is not.",
    ),
    "T611": entry(
        "the recipe has changed since the run began",
        "A run goes on only with the values that decide about its result. Sections that do not may change: launch,",
        "checkpoints, tracking, output_dir.",
    ),
    "T612": entry(
        "the run hung",
        "No step for `launch.watchdog_minutes` and 20 times as long as a step takes. Each process wrote the stacks of",
        "its threads to ranks/*/stacks.txt. Often one process waits in a collective for another that is elsewhere.",
    ),
    "T613": entry(
        "processes lost each other",
        "A process waited `launch.timeout_minutes` for the others, or its connection to them broke: another one died",
        "first, a network failed, or they did not do the same work.",
    ),
    "T614": entry("nothing to go on with", "`--resume` needs a run without a result.json below `output_dir`."),
    "T615": entry("the run is still being executed", "A process holds run.lock; the system frees it when that ends."),
    "T616": entry(
        "the data have changed since the run began",
        "A checkpoint remembers which tokens its steps were made of; other ones would make another run of it.",
    ),
    "T617": entry(
        "a checkpoint of other processes",
        "Checkpoints of `ddp` and `fsdp` can be read by any number of processes; those of DeepSpeed hold a piece for",
        "each, and as many must read them. The strategy must be the same.",
    ),
    "T618": entry(
        "a node does not see the checkpoint",
        "To go on, a run of several nodes needs its run directory on a shared file system.",
    ),
    "T619": entry(
        "the base has changed since the run began",
        "A checkpoint remembers a digest of the weights that training began with; steps on other ones would be another",
        "run's. `model.revision` pins a base from the hub.",
    ),
    "T620": entry(
        "another number of processes than planned",
        "Each process computes its share of a step; with another number of them, it would be another step. The command",
        "in plan.json starts the right number.",
    ),
    "T621": entry(
        "the strategy is not in force",
        "Libraries fall back without a word: accelerate makes plain DDP of FSDP on a CPU. The run looks at what the",
        "model was made into, and ends where it is not what the recipe asks for.",
    ),
    "T622": entry(
        "processes with different data", "Each must read the same pairs; the nodes' files or revisions differ."
    ),
    # T63x: SLURM
    "T630": entry(
        "SLURM's commands are not there",
        "Jobs are submitted with sbatch and followed with scontrol, which a cluster's login nodes have.",
    ),
    "T631": entry(
        "SLURM refused the job",
        "The reason is in SLURM's own words. Sites ask for a partition, an account or a quality of service:",
        "`--slurm KEY=VALUE`, DPO_RECIPE_SLURM or SLURM's own SBATCH_ variables (docs/clusters.md).",
    ),
    "T632": entry(
        "no worker came to life",
        "The job's script ended before the worker had said a word: the node does not see the run directory or this",
        "Python, or a setup line failed. The run directory must lie on a file system that the nodes share.",
    ),
    "T633": entry(
        "the job's time was over",
        "SLURM ended the job at its time limit. Before that the workers are asked to write a checkpoint, and the job",
        "queues itself again; `launch.slurm.checkpoint_seconds` is the time they have for it.",
    ),
    "T634": entry(
        "the job used more memory than it had asked for",
        "The computer's memory, not the GPU's: `launch.slurm.memory`, or the partition's default.",
    ),
    "T635": entry("a node of the job failed", "With `launch.slurm.requeue` SLURM starts the job on others by itself."),
    "T636": entry("the job was cancelled", "By `scancel` from elsewhere, or for a job of a higher priority."),
    "T637": entry(
        "SLURM has forgotten the job",
        "It keeps ended jobs for some minutes (MinJobAge), and this one left neither a result nor an exit code.",
    ),
}
