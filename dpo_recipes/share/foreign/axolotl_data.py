"""Axolotl's datasets, their types, and its chat templates."""

from __future__ import annotations

from dpo_recipes import registry
from dpo_recipes.share.foreign import trl_common
from dpo_recipes.share.foreign.config import Key
from dpo_recipes.share.foreign.draft import Keys
from dpo_recipes.share.foreign.sources import need_source, put_source
from dpo_recipes.share.foreign.values import flag, names, number, text

TEMPLATES = {
    "chatml": "chatml",
    "llama3": "llama3",
    "gemma": "gemma",
    "alpaca": "alpaca",
    "phi_3": "phi3",
    "phi_35": "phi3",
    "qwen_25": "qwen2.5",
    "qwen3": "qwen3",
    "mistral_v2v3": "mistral",
    "tokenizer_default": "tokenizer",
}
"""Axolotl's templates that are shipped here. `phi_35` differs from Phi-3's in its system message alone."""
_LOADERS = ("json", "csv", "parquet", "arrow", "text")
_PREFIXES = {"chatml": "chatml", "llama3": "llama3", "zephyr": "zephyr"}
_SFT_FORMATS = {"alpaca": "alpaca_sft", "sharegpt": "sharegpt_sft", "chat_template": "messages"}
_ROLES = ("role", "from")
_CONTENTS = ("content", "value")
_READS_MESSAGES = "names of roles and of the parts of a message are recognized"


def map_data(keys: Keys, kind: str) -> None:
    """`data.train`, `data.eval` and `data.dedup`."""
    draft = keys.draft
    for index, source in enumerate(keys.items("datasets")):
        _put_dataset(source, kind, f"data.train[{index}]", "data.train", index)
    need_source(draft)
    tests = list(keys.items("test_datasets"))
    for index, source in enumerate(tests):
        _put_dataset(source, kind, f"data.eval.sources[{index}]", "data.eval.sources", index)
    size = keys.get("val_set_size", number)
    if size is not None and tests:
        keys.list("val_set_size", "`test_datasets` are evaluated instead", differs=False)
    elif size is not None and 0 < size < 1:
        draft.put("data.eval.fraction", size, keys.key("val_set_size"))
    elif size is not None and size >= 1:
        draft.put("data.eval.count", round(size), keys.key("val_set_size"))
    else:
        keys.derive(["val_set_size"], "data.eval", note="nothing is held out")
    if keys.get("dataset_exact_deduplication", flag, False):
        draft.put("data.dedup", "exact", keys.key("dataset_exact_deduplication"))
    else:
        keys.derive(["dataset_exact_deduplication"], "data.dedup")


def _put_dataset(source: Keys, kind: str, at: str, section: str, index: int) -> None:
    draft = source.draft
    path = source.get("path", text)
    files = source.get("data_files", names)
    if path in _LOADERS and files and len(files) == 1:
        draft.put(f"{at}.path", files[0], source.key("data_files"))
        source.derive(["path", "ds_type"], f"{at}.path", note="the suffix of the file says how it is read")
        source.list("split", "a local file has no splits", differs=False)
    else:
        put_source(source, index, path="path", name="name", split="split", section=section)
        if files:
            value = files[0] if len(files) == 1 else files
            draft.put(f"{at}.data_files", value, source.key("data_files"))
        source.list("ds_type", "the suffix of the file says how it is read", differs=False)
    source.map("revision", f"{at}.revision")
    _put_type(source, kind, at)


def _put_type(source: Keys, kind: str, at: str) -> None:
    draft, given = source.draft, source.data.get("type")
    if isinstance(given, dict):
        _put_own_type(source.sub("type"), kind, at)
        return
    name = source.get("type", text, "")
    type_keys = [source.key("type")] if source.has("type") else []
    if kind == "sft":
        _put_sft_type(source, name, at, type_keys)
    elif name.startswith("bradley_terry") or (kind == "reward" and name):
        draft.put(f"{at}.format", "preference", *type_keys)
        draft.put(f"{at}.columns", {"prompt": "input"}, *type_keys)
    else:
        _put_preference_type(source, name, kind, at, type_keys)
    _list_fields(source)


def _put_preference_type(source: Keys, name: str, kind: str, at: str, type_keys: list[Key]) -> None:
    draft = source.draft
    base = name.removesuffix(".default") if name.startswith("chat_template") else name
    known = {
        "chat_template": "chat_template.default",
        "chat_template.argilla": "chat_template.argilla_chat",
        "passthrough": "passthrough",
        "": "unpaired" if kind == "kto" else "preference",
        "user_defined": "unpaired" if kind == "kto" else "preference",
    }.get(base, f"kto.{base}" if kind == "kto" else base)
    if known not in registry.DATA_FORMATS:
        note = f"there is no type `{name}` here; the columns decide"
        draft.put(f"{at}.format", "auto", *type_keys, note=note, differs=True)
        return
    draft.put(f"{at}.format", known, *type_keys)
    if known == "chat_template.default":
        columns = {"messages": "field_messages", "chosen": "field_chosen", "rejected": "field_rejected"}
        _put_columns(source, at, columns)


def _put_columns(source: Keys, at: str, columns: dict[str, str]) -> None:
    """`columns` from the keys that name them, unless these are the format's own."""
    found = {column: source.get(name, text) for column, name in columns.items() if source.has(name)}
    given = {column: value for column, value in found.items() if value is not None and value != column}
    used = [source.key(name) for name in columns.values() if source.has(name)]
    if given:
        draft = source.draft
        draft.put(f"{at}.columns", {**draft.value(f"{at}.columns", {}), **given}, *used)
    else:
        source.derive([name for name in columns.values() if source.has(name)], f"{at}.columns")


def _put_own_type(fields: Keys, kind: str, at: str) -> None:
    """A type that the file itself defines: texts that are rendered already, which `columns` join."""
    draft = fields.draft
    system, prompt = fields.get("field_system", text, "system"), fields.get("field_prompt", text, "prompt")
    if kind == "sft":
        prompt = fields.get("field_instruction", text, "instruction")
        pattern, _ = fields.get("format", text, "{instruction}"), fields.get("no_input_format", text)
        shown = pattern.replace("{instruction}", f"{{{prompt}}}").replace(
            "{input}", f"{{{fields.get('field_input', text, 'input')}}}"
        )
        columns = {"prompt": _joined(shown, prompt), "completion": fields.get("field_output", text, "output")}
        draft.put(f"{at}.format", "prompt_completion")
        draft.put(f"{at}.columns", columns, *_of(fields, "format", "field_instruction", "field_input", "field_output"))
        return
    answers = ("completion",) if kind == "kto" else ("chosen", "rejected")
    pattern = fields.get("prompt_format", text, "{prompt}")
    columns = {
        "prompt": _joined(pattern.replace("{prompt}", f"{{{prompt}}}").replace("{system}", f"{{{system}}}"), prompt)
    }
    for answer in answers:
        field = fields.get(f"field_{answer}", text, answer)
        shown = fields.get(f"{answer}_format", text, f"{{{answer}}}").replace(f"{{{answer}}}", f"{{{field}}}")
        columns[answer] = _joined(shown, field)
    if kind == "kto":
        label = fields.get("field_label", text, "label")
        columns |= {"label": label} if label != "label" else {}
    is_rendered = any("{" in value for value in columns.values())
    own = "unpaired" if kind == "kto" else "passthrough" if is_rendered else "preference"
    note = "texts are rendered by the file itself" if is_rendered else ""
    draft.put(f"{at}.format", own, *_of(fields, "prompt_format", *(f"{answer}_format" for answer in answers)))
    used = ("field_system", "field_prompt", "field_label", *(f"field_{answer}" for answer in answers))
    keys_ = _of(fields, *used, "prompt_format", *(f"{answer}_format" for answer in answers))
    differing = {name: value for name, value in columns.items() if name != value}
    if differing:
        draft.put(f"{at}.columns", differing, *keys_, note=note)
    else:
        fields.derive(list(fields.data), f"{at}.format")


def _joined(pattern: str, column: str) -> str:
    """A pattern as a value of `columns`: the name alone if it is nothing but the column."""
    return column if pattern == f"{{{column}}}" else pattern


def _of(keys: Keys, *wanted: str) -> list[Key]:
    return [keys.key(name) for name in dict.fromkeys(wanted) if keys.has(name)]


def _put_sft_type(source: Keys, name: str, at: str, type_keys: list[Key]) -> None:
    draft = source.draft
    base = name.split(":", maxsplit=1)[0].split(".", maxsplit=1)[0]
    if base in ("completion", "pretrain"):
        raise trl_common.no_recipe(draft.config, "pretrain", source.key("type").where)
    known = _SFT_FORMATS.get(base)
    if known is None:
        note = f"there is no type `{name}` here; the columns decide" if name else ""
        draft.put(f"{at}.format", "auto", *type_keys, note=note, differs=bool(name))
        return
    messages = source.get("field_messages", text)
    if known == "messages" and messages == "conversations":
        known = "sharegpt_sft"
    draft.put(f"{at}.format", known, *type_keys)
    column = "conversations" if known == "sharegpt_sft" else "messages"
    if known != "alpaca_sft":
        _put_columns(source, at, {column: "field_messages"})


def _list_fields(source: Keys) -> None:
    """Keys that say how messages are written, which are recognized here."""
    inner = source.sub("message_property_mappings")
    odd = [
        name
        for name, known in (("role", _ROLES), ("content", _CONTENTS))
        if inner.has(name) and inner.get(name, text) not in known
    ]
    note = "the names of a message's parts are recognized only if they are role, from, content or value"
    source.list("message_property_mappings", note if odd else _READS_MESSAGES, differs=bool(odd))
    source.list("roles", _READS_MESSAGES, differs=False)
    for name, known in (("message_field_role", _ROLES), ("message_field_content", _CONTENTS)):
        if source.has(name):
            source.list(name, _READS_MESSAGES, differs=source.get(name, text) not in known)


def map_template(keys: Keys, kind: str) -> None:
    """`chat_template`: of the file, of a dataset, or of the type of a dataset."""
    draft, to = keys.draft, "chat_template"
    sources = list(keys.items("datasets"))
    jinja = keys.get("chat_template_jinja", text)
    given = keys.get("chat_template", text)
    if jinja:
        draft.put(to, jinja, keys.key("chat_template_jinja"))
        keys.derive(["chat_template"], to)
        return
    if given is not None:
        _put_template(keys, "chat_template", given)
        for source in sources:
            _list_other_template(source, given)
        return
    for source in sources:
        own = source.get("chat_template", text)
        if own is not None and not draft.has(to):
            _put_template(source, "chat_template", own)
    if draft.has(to):
        return
    prefixes = {str(source.data.get("type", "")).split(".")[0] for source in sources}
    named = [_PREFIXES[prefix] for prefix in sorted(prefixes) if prefix in _PREFIXES]
    if named and kind != "sft":
        draft.put(to, named[0], note="the type of the data names it")
    elif kind == "sft" and prefixes == {"alpaca"}:
        draft.put(to, "alpaca", note="the type of the data names it")
    else:
        draft.default(to, "tokenizer")


def _put_template(keys: Keys, name: str, given: str) -> None:
    draft, to = keys.draft, "chat_template"
    fallback = given.removeprefix("tokenizer_default_fallback_")
    if fallback != given:
        draft.put(to, "tokenizer", keys.key(name), note=f"`{fallback}` would be used if the tokenizer has none")
    elif given in TEMPLATES:
        draft.put(to, TEMPLATES[given], keys.key(name))
    elif "{{" in given or "{%" in given or given.endswith(".jinja"):
        draft.put(to, given, keys.key(name))
    else:
        note = f"the template `{given}` is not shipped here; the tokenizer's own, which is usually the same"
        draft.put(to, "tokenizer", keys.key(name), note=note, differs=True)


def _list_other_template(source: Keys, given: str) -> None:
    own = source.get("chat_template", text)
    if own is not None:
        source.list("chat_template", "all sources share one template here", differs=own != given)
