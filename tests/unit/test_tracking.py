"""What can be known about trackers before a run: libraries, logins, secrets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from minimal import MINIMAL

from dpo_recipes.engine.trackers.table import TRACKERS
from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.recipe import trackers
from dpo_recipes.recipe.schema.tracking import TrackerName
from dpo_recipes.recipe.trackers import LIBRARIES, TrackerLibrary
from dpo_recipes.recipe.validate import validate

Write = Callable[[str, str], Path]
NAMES = get_args(TrackerName)


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working folder, and none of the variables of trackers."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("WANDB_", "COMET_", "CLEARML_", "SWANLAB_", "NEPTUNE_", "MLFLOW_", "TRACKIO_", "HF_")):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrackerLibrary, "is_installed", True)


def _warnings(write: Write, *overrides: str) -> tuple[Finding, ...]:
    return validate(write("r.yaml", MINIMAL), list(overrides)).warnings


def test_each_tracker_has_a_library_and_all_but_flyte_a_class() -> None:
    assert set(LIBRARIES) == set(NAMES)
    assert set(TRACKERS) == set(NAMES) - {"flyte"}
    assert list(NAMES) == sorted(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if LIBRARIES[name].modules])
def test_a_library_that_is_missing_is_found_with_the_command_that_installs_it(
    name: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda module: None)
    (finding,) = _warnings(write, f"tracking.report_to=[{name}]")
    assert (finding.code, finding.severity, finding.what) == ("R316", "warning", f"{name} is not installed")
    package = {"azure_ml": "azureml-core", "comet_ml": "'dpo-recipe[comet]'", "dagshub": "'dpo-recipe[mlflow]'"}
    package |= {other: f"'dpo-recipe[{other}]'" for other in ("clearml", "mlflow", "swanlab")}
    package |= dict.fromkeys(("tensorboard", "trackio", "wandb"), "'dpo-recipe[track]'")
    assert finding.fix == f"pip install {package.get(name, name)}, or remove it from `report_to`"


def test_either_of_two_libraries_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda module: module == "tensorboardX" or None)
    assert LIBRARIES["tensorboard"].is_installed
    assert not LIBRARIES["wandb"].is_installed


def test_the_extras_that_errors_name_exist() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {library.extra for library in LIBRARIES.values() if library.extra}
    assert named == {"track", "mlflow", "swanlab", "comet", "clearml"}
    assert named <= set(project["optional-dependencies"])


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize(
    ("name", "why", "enough"),
    [
        ("wandb", "WANDB_API_KEY is not set", {"WANDB_API_KEY": "x"}),
        ("wandb", "has no login for api.wandb.ai", {"WANDB_MODE": "offline"}),
        ("wandb", "has no login for w.example.org", {"WANDB_IDENTITY_TOKEN_FILE": "token"}),
        ("comet_ml", "COMET_API_KEY is not set", {"COMET_API_KEY": "x"}),
        ("comet_ml", "no .comet.config has an api_key", {"COMET_START_ONLINE": "False"}),
        ("clearml", "CLEARML_API_ACCESS_KEY is not set", {"CLEARML_API_ACCESS_KEY": "x"}),
        ("clearml", "~/clearml.conf does not exist", {"CLEARML_OFFLINE_MODE": "1"}),
        ("swanlab", "SWANLAB_API_KEY is not set", {"SWANLAB_API_KEY": "x"}),
        ("swanlab", "~/.swanlab has no login", {"SWANLAB_MODE": "local"}),
        ("neptune", "NEPTUNE_API_TOKEN is not set", {"NEPTUNE_MODE": "offline"}),
        ("dagshub", "MLFLOW_TRACKING_URI is not set", {"MLFLOW_TRACKING_URI": "https://dagshub.com/a/b.mlflow"}),
        ("azure_ml", "AZUREML_RUN_ID is not set", {"AZUREML_RUN_ID": "x"}),
        ("kubeflow", "KUBEFLOW_TRAINER_SERVER_URL is not set", {"KUBEFLOW_TRAINER_SERVER_URL": "https://k"}),
    ],
)
def test_a_tracker_without_a_login_is_found_before_a_run(
    name: str, why: str, enough: dict[str, str], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "w.example.org" in why:
        monkeypatch.setenv("WANDB_BASE_URL", "https://w.example.org")
    (finding,) = _warnings(write, f"tracking.report_to=[{name}]")
    assert (finding.code, finding.severity, finding.what) == ("R380", "warning", f"{name} cannot report")
    assert finding.why is not None
    assert why in finding.why
    assert finding.fix == LIBRARIES[name].remedy != ""
    for variable, value in enough.items():
        monkeypatch.setenv(variable, value)
    assert _warnings(write, f"tracking.report_to=[{name}]") == ()


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("wandb", ".netrc", "machine api.wandb.ai login user password x\n"),
        ("wandb", ".config/wandb/settings", "[default]\nmode = offline\n"),
        ("wandb", "wandb/settings", "[default]\ndisabled = true\n"),
        ("comet_ml", ".comet.config", "[comet]\napi_key = x\n"),
        ("clearml", "clearml.conf", "api {}\n"),
        ("swanlab", ".swanlab/.netrc", "machine api.swanlab.cn login user password x\n"),
    ],
)
def test_a_login_in_the_file_of_a_tracker_is_enough(name: str, file: str, text: str, write: Write) -> None:
    write(file, text)
    assert _warnings(write, f"tracking.report_to=[{name}]") == ()


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize("text", ["machine api.wandb.ai login", "machine other.org login u password x\n", "\0"])
def test_a_netrc_that_is_damaged_or_has_other_hosts_is_no_login(text: str, write: Write) -> None:
    write(".netrc", text)
    assert [finding.code for finding in _warnings(write, "tracking.report_to=[wandb]")] == ["R380"]


@pytest.mark.usefixtures("all_installed")
def test_trackers_of_this_machine_need_no_login(write: Write) -> None:
    local = "[tensorboard, trackio, mlflow, dvclive, codecarbon]"
    assert _warnings(write, f"tracking.report_to={local}") == ()


@pytest.mark.usefixtures("all_installed")
def test_trackio_needs_a_login_only_for_a_space_or_a_server(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_SERVER_URL", "https://t.example.org")
    (finding,) = _warnings(write, "tracking.report_to=[trackio]")
    assert "write token" in str(finding.why)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "owner/space")
    (finding,) = _warnings(write, "tracking.report_to=[trackio]")
    assert "no login for the Hugging Face hub" in str(finding.why)
    write(".cache/huggingface/token", "x")
    assert _warnings(write, "tracking.report_to=[trackio]") == ()


def test_a_tracker_that_no_run_can_reach_says_what_to_do_instead(write: Write) -> None:
    (finding,) = _warnings(write, "tracking.report_to=[flyte]")
    assert finding.code == "R380"
    assert "flytekit.Deck" in str(finding.fix)


def test_to_run_without_a_login_is_an_error(command: Any, write: Write) -> None:
    write("r.yaml", MINIMAL)
    refused = command("run", "r.yaml", "--set", "tracking.report_to=[flyte]")
    assert refused.returncode == 3
    assert "error[R380]: flyte cannot report" in refused.stderr


# --- secrets -------------------------------------------------------------------------------------

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "override",
    [
        f"tracking.api_key={KEY}",
        f"tracking={{wandb_api_key: {KEY}}}",
        f"data.train[0].token={KEY}",
        f"model.hf_token={KEY}",
        f"password={KEY}",
        f"tracking.project={KEY}",
        f"tracking.group=hf_{'x' * 34}",
        f"tracking.run_name=https://me:{KEY}@example.org",
    ],
)
def test_a_secret_in_a_recipe_is_found_and_not_shown(override: str, write: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(write("r.yaml", MINIMAL), [override])
    (finding,) = caught.value.findings
    assert finding.code == "R381"
    assert KEY not in str(caught.value)
    assert "x" * 34 not in str(caught.value)


def test_the_line_of_a_secret_is_shown_without_it(write: Write) -> None:
    text = MINIMAL + f"tracking: {{report_to: [wandb], api_key: {KEY}}}\n"
    with pytest.raises(RecipeError) as caught:
        validate(write("r.yaml", text))
    assert "| tracking: {report_to: [wandb], api_key..." in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("other", ["reportto: [wandb]", "attach: 3", "report_to: [wanb]", "report_to: [flyte]"])
def test_other_findings_in_the_line_of_a_secret_do_not_show_it(other: str, write: Write) -> None:
    secret = "project" if "flyte" in other else "api_key"
    text = MINIMAL + f"tracking: {{{other}, {secret}: {KEY}}}\n"
    with pytest.raises(RecipeError) as caught:
        validate(write("r.yaml", text))
    assert len(caught.value.findings) == 2
    assert KEY not in str(caught.value)
    assert "-->" in str(caught.value)


@pytest.mark.parametrize("key", ["eos_token", "max_tokens", "added_tokens", "key", "tokenizer", "secretary"])
def test_other_unknown_keys_are_no_secrets(key: str, write: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(write("r.yaml", MINIMAL), [f"model.{key}=x"])
    assert caught.value.findings[0].code == "R203"


def test_usual_names_are_no_secrets(write: Write) -> None:
    names = ("tracking.project=team/my-dpo", "tracking.group=sweep 0123456789abcdef", "tracking.run_name=lr-1e-5")
    assert _warnings(write, *names) == ()
