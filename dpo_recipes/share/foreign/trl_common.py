"""What TRL's own command line, the alignment handbook and oumi share: the arguments of TRL's trainers."""

from __future__ import annotations

from dpo_recipes.errors import SharingError, Where
from dpo_recipes.objectives.dpo_checks import SMOOTHED
from dpo_recipes.recipe.foreign_names import TRL_DPO
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.listed import Listed, listed
from dpo_recipes.share.foreign.values import flag, names, number, numbers, text, whole

_OLD_LOSSES = {"aot_pair": "aot", "sigmoid_loss": "sigmoid"}
_DPO_LOSSES = [
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
PAIRS = ("dpo", "orpo", "cpo", "simpo", "reward")
NO_LIMIT = 8192
KINDS = ("dpo", "orpo", "cpo", "simpo", "kto", "reward", "sft")
"""Objectives that an importer can make."""

_SIGNS = {
    "kto": "desirable_weight undesirable_weight",
    "reward": "center_rewards_coefficient",
    "simpo": "simpo_gamma",
    "cpo": "cpo_alpha",
    "grpo": "num_generations reward_funcs max_completion_length_grpo vllm_mode scale_rewards",
    "sft": "packing assistant_only_loss completion_only_loss dataset_text_field eval_packing max_seq_length",
    "dpo": "beta loss_type label_smoothing max_prompt_length precompute_ref_log_probs f_divergence_type rpo_alpha "
    "sync_ref_model truncation_mode loss_weights",
}
"""Arguments that only one trainer has, in the order in which they decide."""
_WORDS = {
    **{kind: kind for kind in (*KINDS, "grpo", "rloo", "ppo", "gkd")},
    "rm": "reward",
    "rewards": "reward",
    "ipo": "dpo",
    "online": "online_dpo",
    "nash": "nash_md",
    "xpo": "xpo",
    "prm": "prm",
}


def find_kind(draft: Draft, method: str = "") -> str:
    """The objective: of the command, of a person, of the arguments, or of the words in the path. Raises `SharingError`
    S507 if none of them says it, or if no recipe can describe it."""
    config = draft.config
    kind = draft.kind or method or _kind_of_keys(config) or _kind_of_words(config)
    if kind == "dpo" and not (draft.kind or method) and (named := _kind_of_words(config)) in ("orpo", "simpo", "kto"):
        kind = named  # their arguments are also DPO's
    if not kind:
        raise SharingError.of(
            "S507",
            f"{config.file} does not say what is trained",
            where=Where(config.file),
            why="none of its keys belongs to one trainer alone",
            fix=f"name it with --objective: {', '.join(KINDS)}",
        )
    if kind not in KINDS:
        raise no_recipe(config, kind, Where(config.file))
    return kind


def no_recipe(config: Config, kind: str, where: Where) -> SharingError:
    """S507 for a job that no importer can describe."""
    if kind in ("grpo", "rloo", "ppo", "online_dpo", "gdpo", "dapo", "reinforce"):
        why = "it learns from rewards of answers that it writes, and the file names rewards as Python code or servers"
        fix = "write a recipe with `kind: grpo` or `rloo` and sources of rewards (docs/rl.md)"
    elif kind in ("pretrain", "pt"):
        why = "it trains on plain text, and a recipe on answers"
        fix = "pretrain with that tool, and import the preference training that follows it"
    else:
        why = "a recipe learns from pairs, labelled answers, completions or rewards"
        fix = f"import a file that trains one of {', '.join(KINDS)}"
    return SharingError.of(
        "S507", f"{config.file} trains with {kind}, which cannot be imported", where=where, why=why, fix=fix
    )


def _kind_of_keys(config: Config) -> str:
    return next((kind for kind, signs in _SIGNS.items() if config.has(*signs.split())), "")


def _kind_of_words(config: Config) -> str:
    return next((kind for word, kind in _WORDS.items() if word in config.words), "")


def map_objective(keys: Keys, kind: str) -> None:
    """The section `objective` from TRL's arguments, with TRL's defaults."""
    draft = keys.draft
    if kind == "cpo" and keys.get("loss_type", text) == "simpo":
        kind = "simpo"
    if not draft.has("objective.kind"):
        draft.put("objective.kind", kind)
    elif draft.value("objective.kind") != kind:
        draft.put("objective.kind", kind, *draft.values["objective.kind"].keys)
    {
        "dpo": _map_dpo,
        "kto": _map_kto,
        "orpo": _map_orpo,
        "cpo": _map_cpo,
        "simpo": _map_simpo,
        "reward": _map_reward,
        "sft": _map_sft,
    }[kind](keys)


def _map_beta(keys: Keys, default: float = 0.1) -> None:
    if not keys.map("beta", "objective.beta"):
        keys.draft.default("objective.beta", default)


def _map_dpo(keys: Keys) -> None:
    draft = keys.draft
    _map_beta(keys)
    keys.map_all({name: to for name, to in TRL_DPO.items() if name != "beta"})
    losses = put_losses(keys, keys.get("loss_type", names) or ["sigmoid"])
    add_likelihood(keys, "rpo_alpha", losses)
    losses_now, to = draft.value("objective.loss_type"), "objective.loss_weights"
    if isinstance(losses_now, list) and not draft.has(to) and not keys.map("loss_weights", to):
        draft.default(to, [1.0] * len(losses_now))
    map_smoothing(keys, losses, SMOOTHED, "label_smoothing")


def put_losses(keys: Keys, given: list[str], name: str = "loss_type") -> list[str]:
    """`objective.loss_type` of DPO. A loss that does not exist here becomes `sigmoid`."""
    draft, to = keys.draft, "objective.loss_type"
    named = [_OLD_LOSSES.get(loss, loss) for loss in given]
    losses = [loss if loss in _DPO_LOSSES else "sigmoid" for loss in named]
    value = losses[0] if len(losses) == 1 else losses
    if not keys.has(name):
        draft.default(to, value)
        return losses
    unknown = [loss for loss in named if loss not in _DPO_LOSSES]
    note = f"there is no loss `{', '.join(unknown)}` here; sigmoid instead" if unknown else ""
    draft.put(to, value, keys.key(name), note=note, differs=bool(unknown))
    return losses


def add_likelihood(keys: Keys, name: str, losses: list[str]) -> None:
    """The likelihood of the chosen answer as a second loss, as RPO adds it."""
    draft, alpha = keys.draft, keys.get(name, number)
    if not alpha:
        keys.derive([name] if keys.has(name) else [], "objective.loss_type", note="no likelihood is added")
        return
    weights = keys.get("loss_weights", numbers) or [1.0] * len(losses)
    note = f"{name}: the likelihood of the chosen answer is added"
    types = [key for key in draft.values["objective.loss_type"].keys if key.path[-1] != name]
    draft.put("objective.loss_type", [*losses, "sft"], *types, keys.key(name), note=note)
    more = [keys.key("loss_weights")] if keys.has("loss_weights") else []
    draft.put("objective.loss_weights", [*weights, alpha], *more, keys.key(name))


def map_smoothing(keys: Keys, losses: list[str], using: tuple[str, ...], name: str) -> None:
    """`objective.label_smoothing`, which only some losses use."""
    value = keys.get(name, number)
    if value is None:
        return
    if value == 0 or set(losses) & set(using):
        if value:
            keys.draft.put("objective.label_smoothing", value, keys.key(name))
        else:
            keys.derive([name], "objective.label_smoothing", note="labels are not smoothed")
    else:
        note = f"{', '.join(losses)} does not use it here; `loss_type: robust` is a loss for labels that may be wrong"
        keys.list(name, note, differs=True)


def _map_kto(keys: Keys) -> None:
    _map_beta(keys)
    draft = keys.draft
    given = keys.get("loss_type", names)
    if given:
        known = given[0] if given[0] in ("kto", "apo_zero_unpaired") else "kto"
        draft.put("objective.loss_type", known, keys.key("loss_type"), differs=known != given[0])
    else:
        draft.default("objective.loss_type", "kto")
    for name in ("desirable_weight", "undesirable_weight"):
        if not keys.map(name, f"objective.{name}"):
            draft.default(f"objective.{name}", 1.0)


def _map_orpo(keys: Keys) -> None:
    _map_beta(keys)
    keys.draft.default("objective.nll_on_prompt", True, "TRL's log-likelihood includes the prompt")


def _map_cpo(keys: Keys) -> None:
    _map_beta(keys)
    losses = _map_difference_loss(keys, ("sigmoid", "hinge", "ipo"))
    if not keys.map("cpo_alpha", "objective.cpo_alpha"):
        keys.draft.default("objective.cpo_alpha", 1.0)
    map_smoothing(keys, losses, ("sigmoid",), "label_smoothing")


def _map_simpo(keys: Keys) -> None:
    draft = keys.draft
    _map_beta(keys)
    keys.derive(["loss_type"], "objective.kind")
    if not keys.map("simpo_gamma", "objective.gamma"):
        draft.default("objective.gamma", 0.5)
    if not keys.map("cpo_alpha", "objective.cpo_alpha"):
        draft.default("objective.cpo_alpha", 1.0)
    keys.map("alpha", "objective.alpha", number)
    map_smoothing(keys, ["sigmoid"], ("sigmoid",), "label_smoothing")


def _map_difference_loss(keys: Keys, known: tuple[str, ...]) -> list[str]:
    given = keys.get("loss_type", names) or ["sigmoid"]
    loss = given[0] if given[0] in known else "sigmoid"
    if keys.has("loss_type"):
        keys.draft.put("objective.loss_type", loss, keys.key("loss_type"), differs=loss != given[0])
    else:
        keys.draft.default("objective.loss_type", loss)
    return [loss]


def _map_reward(keys: Keys) -> None:
    coefficient = keys.get("center_rewards_coefficient", number)
    if coefficient is not None:
        keys.draft.put("objective.center_rewards_coefficient", coefficient, keys.key("center_rewards_coefficient"))


def _map_sft(keys: Keys) -> None:
    draft = keys.draft
    if keys.get("assistant_only_loss", flag, False):
        draft.put("data.train_on_turns", "assistant", keys.key("assistant_only_loss"))
    elif keys.has("assistant_only_loss"):
        note = "only the completion of a prompt is trained on, and all turns of the assistant in a dialogue"
        keys.list("assistant_only_loss", note, differs=True)


def map_lengths(keys: Keys, kind: str, *, keep: str = "keep_start", default: int = 1024) -> None:
    """`data.max_length` and `overlong`."""
    draft = keys.draft
    name = "max_seq_length" if kind == "sft" and keys.has("max_seq_length") else "max_length"
    length = keys.get(name, whole)
    if draft.has("data.max_length"):
        pass  # another key of the tool overrides it
    elif length is not None and length > 0:
        draft.put("data.max_length", max(8, length), keys.key(name))
    elif name in keys.data and keys.data[name] is None:
        note = f"empty: rows are not cut; none may be longer than {NO_LIMIT} here"
        draft.put("data.max_length", NO_LIMIT, keys.key(name), note=note, differs=True)
    else:
        draft.default("data.max_length", default)
    mode = keys.get("truncation_mode", text)
    ways = {"keep_start": "truncate_completion_end", "keep_end": "truncate_prompt_start"}
    if mode in ways and kind != "reward":
        draft.put("data.overlong", ways[mode], keys.key("truncation_mode"))
        return
    if mode is not None:
        keys.list("truncation_mode", "this trainer does not use it", differs=False)
    draft.default("data.overlong", "drop" if kind == "reward" else ways[keep])


LISTED: tuple[Listed, ...] = (
    listed(
        "there is no separate limit for prompts: together with the answers they have `data.max_length`",
        "max_prompt_length max_completion_length max_target_length max_prompt_len",
        differs=True,
    ),
    listed(
        "rows are not packed into one sequence; no two rows can see each other",
        "packing packing_strategy "
        "eval_packing bfd sample_packing* eval_sample_packing multipack_* neat_packing packing_length "
        "packing_num_proc pack",
    ),
    listed(
        "dropout of the base is always off in training, as these trainers do by default",
        "disable_dropout",
        is_feature=False,
    ),
    listed(
        "the load balance of a mixture of experts is not part of the loss",
        "router_aux_loss_coef moe_aux_loss_coef moe_aux_loss_coeff",
        differs=True,
    ),
    listed(
        "answers to held-out prompts follow from the section `evaluation`",
        "generate_during_eval predict_with_generate max_new_tokens",
    ),
    listed("a loss without a reference is the objective `cpo`", "reference_free", differs=True),
    listed(
        "the tokens of the tokenizer are used",
        "pad_token eos_token padding_value label_pad_token_id pad_token_id",
        differs=True,
    ),
    listed("the reference is the untouched base", "ref_adapter_name model_adapter_name", differs=True),
    listed("rows are read by the format of the data", "dataset_kwargs is_encoder_decoder", is_feature=False),
    listed("completions alone are trained on", "completion_only_loss"),
    listed("rows are in random order in each epoch", "shuffle_dataset", is_feature=False),
    listed(
        "the objective does not use it",
        "beta label_smoothing loss_type loss_weights cpo_alpha simpo_gamma alpha desirable_weight undesirable_weight "
        "center_rewards_coefficient rpo_alpha ld_alpha discopop_tau f_divergence_type f_alpha_divergence_coef "
        "use_weighting sync_ref_model ref_model_mixup_alpha ref_model_sync_steps assistant_only_loss",
        is_feature=False,
    ),
)
