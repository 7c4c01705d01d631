"""Warns about jobs that will run but probably give a disappointing result. Each rule has a threshold, a reason and
sources; docs/advice.md shows the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from dpo_recipes.errors import Finding, Reference
from dpo_recipes.fit.advice import checks
from dpo_recipes.fit.advice.checks import Remark
from dpo_recipes.fit.facts import JobFacts


@dataclass(frozen=True)
class AdviceRule:
    """One rule: a property of a job that makes a disappointing result likely."""

    code: str
    name: str
    look: Callable[[JobFacts], Iterator[Remark]]
    threshold: str
    reason: str
    sources: tuple[Reference, ...]


DPO = Reference("Rafailov et al. 2023", "https://arxiv.org/abs/2305.18290")
ZEPHYR = Reference("Tunstall et al. 2023", "https://arxiv.org/abs/2310.16944")
TULU_3 = Reference("Lambert et al. 2024", "https://arxiv.org/abs/2411.15124")
SIMPO = Reference("SimPO's README", "https://github.com/princeton-nlp/SimPO#hyperparameter-tuning")
TRL_DPO = Reference("TRL's documentation", "https://huggingface.co/docs/trl/dpo_trainer")
TRL_LENGTH = Reference("TRL's documentation", "https://huggingface.co/docs/trl/reducing_memory_usage")
DATA_EFFICIENCY = Reference("Bernardelle and Demartini 2024", "https://arxiv.org/abs/2410.16586")
NOVA = Reference("Amazon Nova's guide", "https://docs.aws.amazon.com/sagemaker/latest/dg/nova-fine-tune-1.html")
TRUNCATIONS = Reference("Ding et al. 2024", "https://arxiv.org/abs/2404.10830")
NOISE_SCALE = Reference("McCandlish et al. 2018", "https://arxiv.org/abs/1812.06162")
WILSON = Reference("Wilson 1927", "https://doi.org/10.1080/01621459.1927.10502953")
ERROR_BARS = Reference("Miller 2024", "https://arxiv.org/abs/2411.00640")
PREF_TUNING = Reference("Hugging Face 2024", "https://huggingface.co/blog/pref-tuning")
KTO = Reference("Ethayarajh et al. 2024", "https://arxiv.org/abs/2402.01306")
ADAM = Reference("Kingma and Ba 2015, section 2.1", "https://arxiv.org/abs/1412.6980")
EARLY_STOPPING = Reference("Prechelt 1998", "https://doi.org/10.1007/3-540-49430-8_3")

RULES = (
    AdviceRule(
        "F780",
        "classes-out-of-balance",
        partial(checks.check_parameters, "F780"),
        "with `kind: kto`, weight × number of the good answers below 1 or above 4/3 of that of the bad answers",
        "the paper advises 1 to 4/3, so that the larger class does not decide alone",
        (KTO,),
    ),
    AdviceRule(
        "F781",
        "patience-beyond-evaluations",
        checks.check_patience,
        "a `patience` of `training.early_stopping` that is not below the number of evaluations before the last step, "
        "where this depends on the number of rows (otherwise R397 warns)",
        "training ends when evaluations in sequence do not improve on the best one before them",
        (EARLY_STOPPING,),
    ),
    AdviceRule(
        "F790",
        "learning-rate-far-off",
        checks.check_learning_rate,
        "more than 5 times beyond the usual range for the kind of tuning and the optimizer (below)",
        "a rate that is too high makes a model incoherent or repetitive, one that is too low leaves it unchanged",
        (SIMPO, TRL_DPO),
    ),
    AdviceRule(
        "F791",
        "few-training-rows",
        checks.check_row_count,
        "fewer than 300 training rows",
        "models get better and steadier with more rows, and Amazon recommends at least 1,000; expect a change of "
        "length or tone that varies with the seed",
        (DATA_EFFICIENCY, NOVA),
    ),
    AdviceRule(
        "F792",
        "many-passes",
        checks.check_num_passes,
        "more than 3 passes over the training rows",
        "Zephyr ranked every training pair correctly after one pass, and its best model had three passes; Tulu 3 "
        "scored 57.3 after one and 53.4 after three",
        (ZEPHYR, TULU_3),
    ),
    AdviceRule(
        "F793",
        "many-rows-cut",
        checks.check_lengths,
        "more than 5 % of the training rows are truncated to `data.max_length` or dropped because of it",
        "truncated text is not learned; pre-training on texts that were not truncated gave up to 58 % fewer "
        "hallucinations",
        (TRL_LENGTH, TRUNCATIONS),
    ),
    AdviceRule(
        "F794",
        "batch-of-one",
        checks.check_batch,
        "an effective batch of 1: micro_batch_size × gradient_accumulation_steps × processes",
        "the noise of a gradient falls with 1/√batch, and published runs use 32 to 128 rows per step",
        (NOISE_SCALE, TULU_3),
    ),
    AdviceRule(
        "F795",
        "few-held-out-rows",
        checks.check_held_out_count,
        "fewer than 381 held-out or test rows, where the 95 % interval of an accuracy reaches beyond ± 5 points",
        "a smaller difference may be due to chance, and so are settings that are chosen by it",
        (WILSON, ERROR_BARS),
    ),
    AdviceRule(
        "F796",
        "beta-far-off",
        partial(checks.check_parameters, "F796"),
        "with the `sigmoid` loss, `beta` below 0.001 or above 10: tenfold beyond 0.01 to 1",
        "0.1 is the default of DPO; its paper tried 0.05 to 5, and Hugging Face 0.01 to 0.9",
        (DPO, PREF_TUNING),
    ),
    AdviceRule(
        "F797",
        "long-warm-up",
        checks.check_warmup,
        "the warm-up takes more than half of the optimizer steps, if the schedule has one",
        "Zephyr and Tulu 3 warm up over a tenth of the run; steps of the warm-up have only a part of the rate",
        (ZEPHYR, TULU_3),
    ),
    AdviceRule(
        "F798",
        "few-steps",
        checks.check_steps,
        "fewer than 20 optimizer steps",
        "Adam moves a weight by about the learning rate per step and rarely by more, so few steps change little",
        (ADAM,),
    ),
    AdviceRule(
        "F799",
        "keep-best-compares-nothing",
        checks.check_best_candidates,
        "`checkpoints.keep_best` without an evaluation before the last step",
        "the best model is chosen among the evaluated ones, and only one is evaluated",
        (EARLY_STOPPING,),
    ),
)
"""All rules, in the order of their codes."""


def advise(facts: JobFacts) -> tuple[Finding, ...]:
    """The warnings that apply to a job, in the order of their codes. Rules whose facts are unknown and rules that the
    recipe accepts yield no warning."""
    accepted = facts.recipe.accept_advice
    rules = [rule for rule in RULES if rule.code not in accepted]
    found = [_finding(rule, remark) for rule in rules for remark in rule.look(facts)]
    # An objective of another package has codes of its own, which no rule explains further.
    found += [
        Finding(advice.code, advice.what, None, advice.why, advice.fix, "warning", advice.at)
        for advice in checks.advice_of_objective(facts)
        if advice.code not in {*accepted, *(rule.code for rule in RULES)}
    ]
    return tuple(found)


def _finding(rule: AdviceRule, remark: Remark) -> Finding:
    return Finding(
        rule.code,
        remark.what,
        None,
        f"{remark.number}; {rule.reason} ({'; '.join(str(source) for source in rule.sources)})",
        remark.fix,
        "warning",
        remark.at,
    )
