"""F7xx: whether a job fits the device, and advice about jobs that will probably disappoint."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # F7xx: whether the job fits
    "F701": entry(
        "the job does not fit",
        "The predicted peak exceeds the device's memory, even if the prediction is 10 % too high.",
        "The error names changes that would make it fit; `--fit` (or `hardware: {fit: true}`) makes the cheapest",
        "one that keeps the effective batch. It keeps the micro-batch if the loss depends on it, such as `aot`'s.",
        "docs/memory.md says how accurate predictions are.",
    ),
    "F702": entry(
        "warning: it may not fit",
        "The predicted peak is within 10 % of the device's memory. Training tries the largest micro-batch first,",
        "so that a job that does not fit fails in the first minute.",
    ),
    "F703": entry(
        "warning: settings were changed to make the job fit",
        "`--fit` changed them. The effective batch is still the recipe's; the settings are in plan.json.",
    ),
    # F78x, F79x: whether the job is worth running. docs/advice.md has thresholds and sources
    "F780": entry(
        "warning: good and bad answers out of balance",
        "KTO's paper advises that weight x number of the good answers is 1 to 4/3 of that of the bad ones;",
        "`desirable_weight` and `undesirable_weight` balance classes of different sizes.",
    ),
    "F781": entry(
        "warning: early stopping comes too late",
        "The first evaluation gives the value to improve on, and `patience` more must fail to. There are fewer before",
        "the last step. R397 is the same where no row needs to be counted.",
    ),
    "F790": entry(
        "warning: a learning rate far off",
        "Full fine-tuning on preferences uses 1e-7 to 5e-6, an adapter 5e-6 to 2e-4; Lion 3 to 10 times less,",
        "schedule-free optimizers up to 10 times more. The rate is more than five times outside that range.",
    ),
    "F791": entry(
        "warning: few training rows",
        "There are fewer than 300, enough for a trial. Expect a change of length or tone that varies with the seed.",
    ),
    "F792": entry(
        "warning: many passes over the same rows",
        "There are more than three. Preferences are memorized quickly: the training loss falls, and the held-out",
        "loss rises.",
    ),
    "F793": entry(
        "warning: many rows are too long",
        "More than 5 % are truncated to `data.max_length` or dropped. `dpo-recipe data` shows the lengths.",
    ),
    "F794": entry(
        "warning: an effective batch of one",
        "micro_batch_size x gradient_accumulation_steps x processes is 1; the gradient is mostly noise.",
    ),
    "F795": entry(
        "warning: few held-out rows",
        "With fewer than 381, the 95 % interval of an accuracy is wider than 5 points to each side: a difference",
        "between two runs may be chance.",
    ),
    "F796": entry(
        "warning: beta far off",
        "DPO's `sigmoid` loss is used with 0.01 to 1. Far below that, the model may move far from the reference; far",
        "above, it hardly changes.",
    ),
    "F797": entry(
        "warning: a long warm-up",
        "The learning rate still rises in more than half of the steps; a tenth is usual. Until its end, steps",
        "train at a part of the rate.",
    ),
    "F798": entry(
        "warning: few optimizer steps",
        "There are fewer than 20. A step moves a weight by about the learning rate at most, so little will change.",
    ),
    "F799": entry(
        "warning: `keep_best` has nothing to compare",
        "The best model is chosen among those that `training.eval_steps` measures. With one at the last step,",
        "or none before it, the last model is saved regardless of its metrics.",
    ),
}
