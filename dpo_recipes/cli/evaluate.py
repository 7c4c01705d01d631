"""`dpo-recipe evaluate`: answers and metrics of finished runs and other models on the same held-out prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from dpo_recipes.artifacts.references import is_address, is_artifact_file
from dpo_recipes.cli.options import JsonOption, find_recipe, read_functions, short_path
from dpo_recipes.cli.progress import Progress, worker_bugs, write_message
from dpo_recipes.cli.runs import OutputDirOption
from dpo_recipes.errors import RunError
from dpo_recipes.evaluation_run import evaluation_directory, run_evaluation
from dpo_recipes.recipe.load import parse_yaml
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.reward_settings import FUNCTION, FunctionReward
from dpo_recipes.run_dir import find_output_dir
from dpo_recipes.run_result import describe_invalid
from dpo_recipes.runs import find_run

_RUN_NAME = re.compile(r"(\d{8}T\d{6}Z-)?[0-9a-f]{6}")
"""The names of run directories, and their last parts. Other words may be hub ids, such as `gpt2`."""


def evaluate(  # noqa: PLR0913, PLR0917  (a parameter is an option)
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run directories or the last parts of their names, folders of models, .gguf files, hub ids, or "
            "`base`: the base of the first run.",
            metavar="MODEL",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="Compare each model with this one, named in the same way.", metavar="MODEL"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A recipe, whose held-out rows are used, or a file or hub dataset. Absent: the held-out rows of the "
            "first run.",
            metavar="RECIPE|FILE",
        ),
    ] = None,
    split: Annotated[Literal["eval", "test"], typer.Option(help="The held-out rows of a recipe to use.")] = "eval",
    limit: Annotated[int, typer.Option(help="Use the first N rows. 0: all of them.", min=0, metavar="N")] = 200,
    temperature: Annotated[float, typer.Option(help="0 decodes greedily.", min=0.0, max=10.0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the most probable tokens up to this sum.", max=1.0)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="The maximum length of an answer in tokens.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="The seed of sampled answers.", min=0, max=2**32 - 1)] = 0,
    batch_size: Annotated[int, typer.Option(help="Sequences that are computed at once.", min=1)] = 8,
    chat_template: Annotated[
        str | None,
        typer.Option(help="The template of models that are not runs, if their tokenizers have none.", metavar="NAME"),
    ] = None,
    overlap: Annotated[
        bool, typer.Option("--overlap/--no-overlap", help="BLEU and ROUGE-L against the good answers in the data.")
    ] = True,
    bleu_tokenizer: Annotated[
        Literal["13a", "intl", "zh", "char"], typer.Option(help="How sacrebleu divides texts into words.")
    ] = "13a",
    kl_prompts: Annotated[
        int, typer.Option(help="Prompts for which the KL from the base is estimated. 0: none.", min=0)
    ] = 50,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge the answers by a reward model (a run, a folder or a hub id), a function FILE.py:NAME, or a "
            "source as in a recipe: '{rule: length, max: 50}'. Repeatable.",
            metavar="SOURCE",
        ),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the models compute.")] = "auto",
    output_dir: OutputDirOption = "runs",
    json_: JsonOption = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow a model that needs Python code from its repository.")
    ] = False,
) -> None:
    """Compare models on held-out prompts: accuracy, BLEU, ROUGE-L, perplexity, KL, length, rewards and win-rates.

    An evaluation that was stopped keeps its answers; the same command generates only the others.
    """
    folder = find_output_dir(output_dir)
    generate = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    section = _section(
        models=[_resolve(name, folder) for name in models],
        against=None if against is None else _resolve(against, folder),
        data=_find_data(data),
        split=split,
        limit=limit or None,
        generate={**generate, "seed": seed, "batch_size": batch_size},
        chat_template=_absolute(chat_template),
        overlap=overlap,
        bleu_tokenizer=bleu_tokenizer,
        kl_prompts=kl_prompts,
        rewards=[_reward(text, folder) for text in reward or ()],
        device=device,
    )
    directory = evaluation_directory(section, folder)
    with worker_bugs(), Progress() as progress:
        result = run_evaluation(
            section,
            directory,
            progress.on_event,
            trust_remote_code=trust_remote_code,
            reward_functions=[one.function for one in section.rewards if isinstance(one, FunctionReward)],
        )
    if json_:
        typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
        return
    from dpo_recipes.cli.evaluation_text import describe_result

    typer.echo("\n".join(describe_result(result)))
    write_message(f"\nanswers   {short_path(directory / 'answers.jsonl')}\n")
    write_message(f"report    {short_path(directory / 'report.html')}\n")


def _reward(text: str, output_dir: Path) -> dict[str, Any]:
    """A source of rewards. A function that is named here is allowed by that."""
    if text.lstrip().startswith("{"):
        return parse_yaml(text, "--reward")[0]
    if re.fullmatch(FUNCTION, text):
        return {"function": read_functions([text])[0]}
    return {"model": _resolve(text, output_dir)}


def _section(**values: Any) -> Evaluate:
    try:
        return Evaluate.model_validate(values)
    except ValidationError as error:
        raise typer.BadParameter(describe_invalid(error)) from error


def _resolve(name: str, output_dir: Path) -> str:
    """The absolute path of a run or a folder; other names are those of the hub. Raises `RunError` T640."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    try:
        return str(find_run(name, output_dir).path)
    except RunError:
        if _RUN_NAME.fullmatch(path.name) or path.is_absolute() or name.startswith("."):
            raise
    return name


def _find_data(name: str | None) -> str | None:
    """A recipe that is packed or stands elsewhere becomes the path of the file."""
    if name is not None and (is_address(name) or is_artifact_file(Path(name))):
        return str(find_recipe(name))
    return _absolute(name)


def _absolute(name: str | None) -> str | None:
    """The absolute path of a file that exists; otherwise the name of something that is shipped or on the hub."""
    return str(Path(name).expanduser().resolve()) if name and Path(name).expanduser().exists() else name
