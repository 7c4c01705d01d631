"""The alignment handbook's recipes, with both of its forms of data: `dataset_mixer` and `dataset_mixture`."""

from __future__ import annotations

from dpo_recipes.recipe.foreign_names import TRAINER, TRL_DPO, TRL_MODEL
from dpo_recipes.share.foreign import trl, trl_model
from dpo_recipes.share.foreign.config import Config
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.environment import map_environment
from dpo_recipes.share.foreign.listed import listed
from dpo_recipes.share.foreign.sources import need_source, put_source
from dpo_recipes.share.foreign.tool import Tool
from dpo_recipes.share.foreign.trainer import TrainerDefaults, map_trainer
from dpo_recipes.share.foreign.trl_common import PAIRS, find_kind, map_lengths, map_objective
from dpo_recipes.share.foreign.values import WrongValue, mapping, names, number, text

_RATES = {"sft": 2e-5, "reward": 1e-4}
_METHODS = ("dpo", "orpo", "sft")


def signs(config: Config) -> int:
    """How many keys are the handbook's alone."""
    return 10 * config.has("dataset_mixer", "dataset_mixture") + config.has("dataset_splits", "dataset_configs")


def convert(draft: Draft) -> None:
    """Make the recipe."""
    keys = draft.keys
    command = "/".join(draft.config.command)
    kind = find_kind(draft, next((method for method in _METHODS if f"{method}.py" in command), ""))
    map_environment(draft)
    trl_model.map_trl_model(keys)
    map_objective(keys, kind)
    map_trainer(keys, TrainerDefaults(learning_rate=_RATES.get(kind, 1e-6), logging_steps=10))
    map_lengths(keys, kind, keep="keep_end")
    if kind != "sft" and "max_prompt_length" not in keys.data:
        draft.remarks.append("prompts longer than 512 tokens are cut there, which is TRL 0.19's default; not here")
    if keys.has("chat_template"):
        keys.map("chat_template", "chat_template")
    keys.map("chat_template_kwargs", "chat_template_kwargs")
    format_ = "preference" if kind in PAIRS else "auto"
    if keys.has("dataset_mixer"):
        _map_mixer(keys, draft, format_)
    elif keys.has("dataset_mixture"):
        _map_mixture(keys, draft, format_)
    elif keys.has("dataset_name"):
        put_source(keys, 0, path="dataset_name", name="dataset_config", split="dataset_train_split", format_=format_)
        if keys.get("eval_strategy", text, "no") != "no" and not keys.map("dataset_test_split", "data.eval.split"):
            draft.default("data.eval.split", "test")
    need_source(draft)


def _map_mixture(keys: Keys, draft: Draft, format_: str) -> None:
    """`dataset_mixture.datasets`, of which a part is held out together."""
    mixture = keys.sub("dataset_mixture")
    for index, source in enumerate(mixture.items("datasets")):
        put_source(source, index, path="id", name="config", split="split", format_=format_)
        _put_share(source, "weight", source.get("weight", number), f"data.train[{index}]")
        source.list("columns", "columns are chosen by the format", differs=False)
    size = mixture.get("test_split_size", number)
    if size is not None:
        trl.put_held_out(mixture, "test_split_size", size)
    mixture.list("seed", "the rows that are held out follow from `training.seed`", differs=True)


def _map_mixer(keys: Keys, draft: Draft, format_: str) -> None:
    """`dataset_mixer`, the shares of datasets, with `dataset_splits`: those with `train` and with `test` in them."""
    try:
        shares = mapping(keys.data["dataset_mixer"])
    except WrongValue as error:
        draft.wrong(keys.key("dataset_mixer"), f"it must be {error}")
        return
    splits = keys.get("dataset_splits", names) or ["train", "test"]
    configs = keys.get("dataset_configs", names) or []
    mixer, index = Keys(draft, ("dataset_mixer",), shares), 0
    for place, (dataset, share) in enumerate(shares.items()):
        config = configs[place] if place < len(configs) else None
        for split in splits:
            is_test = "test" in split and "train" not in split
            if is_test:
                continue
            at = f"data.train[{index}]"
            draft.put(f"{at}.path", dataset, mixer.key(dataset))
            if config not in (None, "default"):
                draft.put(f"{at}.name", config, keys.key("dataset_configs"))
            draft.put(f"{at}.split", split, *([keys.key("dataset_splits")] if keys.has("dataset_splits") else []))
            draft.put(f"{at}.format", format_)
            if isinstance(share, int | float | str):
                _put_share(mixer, dataset, mixer.get(dataset, number), at)
            index += 1
        for split in splits:
            if "test" in split and "train" not in split:
                _put_test(keys, draft, dataset, config, split, format_)
    keys.derive(["dataset_configs"], "data.train[0].name", note="the default configuration")
    keys.derive(["dataset_splits"], "data.train[0].split")


def _put_test(keys: Keys, draft: Draft, dataset: str, config: str | None, split: str, format_: str) -> None:
    if keys.get("eval_strategy", text) is None and keys.get("evaluation_strategy", text) is None:
        keys.derive(["dataset_splits"], "data.eval", note="evaluated at the end of the run")
    number_of = sum(name.startswith("data.eval.sources[") and name.endswith(".path") for name in draft.values)
    at = f"data.eval.sources[{number_of}]"
    draft.put(f"{at}.path", dataset)
    if config not in (None, "default"):
        draft.put(f"{at}.name", config)
    draft.put(f"{at}.split", split, *([keys.key("dataset_splits")] if keys.has("dataset_splits") else []))
    draft.put(f"{at}.format", format_)


def _put_share(keys: Keys, name: str, share: float | None, at: str) -> None:
    """A share of a dataset's rows as a slice of its split."""
    if share is None:
        return
    if not 0 < share < 1:
        keys.derive([name], f"{at}.path", note="all rows")
        return
    split = keys.draft.value(f"{at}.split", "train")
    keys.draft.put(
        f"{at}.split", f"{split}[:{share * 100:.6g}%]", keys.key(name), note="the first rows; the handbook draws them"
    )


TOOL = Tool(
    name="handbook",
    title="the alignment handbook",
    version="(TRL 0.19)",
    programs=("scripts/run_dpo.py", "scripts/run_orpo.py", "scripts/run_sft.py", "run_dpo.py", "run_orpo.py"),
    signs=signs,
    convert=convert,
    mapped={**TRL_MODEL, **TRL_DPO, **TRAINER, "chat_template": "chat_template"},
    derived={
        "dataset_mixture.datasets, dataset_mixer, dataset_splits, dataset_configs": "data.train, data.eval",
        "dataset_mixture.test_split_size": "data.eval.count, data.eval.fraction",
        **{names_: to for names_, to in trl.TOOL.derived.items() if not names_.startswith("dataset")},
    },
    listed=(
        *trl.TOOL.listed,
        listed(
            "`dataset_mixer` or `dataset_mixture` is read instead",
            "datasets test_split_size dataset_name dataset_config dataset_train_split dataset_test_split "
            "dataset_streaming",
            is_feature=False,
        ),
        listed("the template of the tokenizer is used", "chat_template_path", differs=True),
        listed("messages are kept as they are", "auto_insert_empty_system_msg", differs=True),
        listed("the reference is the untouched base", "ref_model_*", differs=True),
        listed("the text of a row is made by the chat template", "text_column decontaminate"),
    ),
)
