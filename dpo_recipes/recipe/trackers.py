"""The experiment trackers: the library of each, and what it needs before it can report.

Nothing is imported and no network is used, so that a check takes a millisecond. How a tracker is used is in
dpo_recipes/engine/trackers/.
"""

from __future__ import annotations

import importlib.util
import netrc
from collections.abc import Callable, Mapping
from configparser import ConfigParser, Error
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

Environment = Mapping[str, str]
_OFF = frozenset({"0", "f", "false", "n", "no", "off"})


def _always_ready(environment: Environment) -> str | None:
    return None


@dataclass(frozen=True)
class TrackerLibrary:
    """What a tracker needs."""

    modules: tuple[str, ...] = ()
    """The modules of which one must be installed; none for a tracker without a library of its own."""
    package: str = ""
    """What pip installs: an extra of ours in brackets, or other packages."""
    missing: Callable[[Environment], str | None] = _always_ready
    """What is missing before the tracker can report, such as a login; None if nothing is known to be."""
    remedy: str = ""
    """How to provide it, or how to do without."""

    @property
    def is_installed(self) -> bool:
        """Whether one of the modules is there."""
        return not self.modules or any(importlib.util.find_spec(module) is not None for module in self.modules)

    @property
    def extra(self) -> str | None:
        """The name of our extra that installs it, or None."""
        return self.package[1:-1] if self.package.startswith("[") else None

    @property
    def install_command(self) -> str:
        """The command that installs it."""
        return f"pip install 'dpo-recipe{self.package}'" if self.extra else f"pip install {self.package}"


def _wandb(environment: Environment) -> str | None:
    """As wandb 0.31 looks for credentials (wandb/sdk/lib/wbauth/authenticate.py)."""
    folder = environment.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    settings = {**_ini(Path(folder) / "settings", "default"), **_ini(Path("wandb/settings"), "default")}
    mode = environment.get("WANDB_MODE") or settings.get("mode", "online")
    if mode in ("offline", "dryrun", "disabled") or settings.get("disabled") == "true":
        return None
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE") or settings.get("api_key"):
        return None
    address = environment.get("WANDB_BASE_URL") or settings.get("base_url")
    # The default address differs between versions of wandb.
    hosts = [urlsplit(address).netloc] if address else ["api.wandb.ai", "api.forge.coreweave.com"]
    path = Path(environment.get("NETRC") or "~/.netrc").expanduser()
    if any(_has_login(path, host) for host in hosts):
        return None
    return f"WANDB_API_KEY is not set, and {path} has no login for {' or '.join(hosts)}"


def _trackio(environment: Environment) -> str | None:
    """As trackio 0.43 does: without a Space or a server it stores runs on this machine."""
    if environment.get("TRACKIO_SPACE_ID"):
        home = Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser()
        file = Path(environment.get("HF_TOKEN_PATH") or home / "token")
        if not (environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN") or file.is_file()):
            return "TRACKIO_SPACE_ID names a Space, and there is no login for the Hugging Face hub"
        return None
    server = environment.get("TRACKIO_SERVER_URL")
    if server and "write_token=" not in server and not environment.get("TRACKIO_WRITE_TOKEN"):
        return "TRACKIO_SERVER_URL names a server, and neither it nor TRACKIO_WRITE_TOKEN has a write token"
    return None


def _comet(environment: Environment) -> str | None:
    """As comet_ml 3.58 reads its settings (comet_ml/config/config_class.py)."""
    files = [environment.get("COMET_CONFIG", ""), "./.comet.config", "~/.comet.config"]
    settings: dict[str, str] = {}
    for file in reversed([file for file in files if file]):
        settings |= _ini(Path(file), "comet")
    if (environment.get("COMET_START_ONLINE") or "").lower() in _OFF:
        return None
    if environment.get("COMET_API_KEY") or settings.get("api_key"):
        return None
    return "COMET_API_KEY is not set, and no .comet.config has an api_key"


def _clearml(environment: Environment) -> str | None:
    """As clearml 2.1 does (clearml/backend_config/defs.py, clearml/backend_api/session/defs.py)."""
    if (environment.get("CLEARML_OFFLINE_MODE") or "0").lower() not in _OFF:
        return None
    file = environment.get("CLEARML_CONFIG_FILE") or "~/clearml.conf"
    if environment.get("CLEARML_API_ACCESS_KEY") or environment.get("CLEARML_AUTH_TOKEN"):
        return None
    if Path(file).expanduser().is_file():
        return None
    return f"CLEARML_API_ACCESS_KEY is not set, and {file} does not exist"


def _swanlab(environment: Environment) -> str | None:
    """As swanlab 0.10 looks for credentials (swanlab/sdk/internal/settings)."""
    if environment.get("SWANLAB_MODE") in ("local", "offline", "disabled") or environment.get("SWANLAB_API_KEY"):
        return None
    home = environment.get("SWANLAB_ROOT") or environment.get("SWANLAB_SAVE_DIR") or "~/.swanlab"
    if any((Path(folder).expanduser() / ".netrc").is_file() for folder in (".swanlab", home)):
        return None
    return f"SWANLAB_API_KEY is not set, and {home} has no login"


def _neptune(environment: Environment) -> str | None:
    if environment.get("NEPTUNE_MODE") in ("offline", "debug", "read-only"):
        return None
    return None if environment.get("NEPTUNE_API_TOKEN") else "NEPTUNE_API_TOKEN is not set"


def _needs(variable: str, meaning: str) -> Callable[[Environment], str | None]:
    def missing(environment: Environment) -> str | None:
        return None if environment.get(variable) else f"{variable} is not set: {meaning}"

    return missing


def _flyte(environment: Environment) -> str | None:
    return "Flyte shows only what the process of its task itself adds to a deck, and a run is a process of its own"


LIBRARIES: dict[str, TrackerLibrary] = {
    "azure_ml": TrackerLibrary(
        ("azureml",), "azureml-core", _needs("AZUREML_RUN_ID", "this is not a job of Azure ML"),
        "run the recipe in an Azure ML job; elsewhere use `mlflow`, with the address of the workspace",
    ),
    "clearml": TrackerLibrary(
        ("clearml",), "[clearml]", _clearml,
        "run `clearml-init`, set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or set CLEARML_OFFLINE_MODE=1",
    ),
    "codecarbon": TrackerLibrary(("codecarbon",), "codecarbon"),
    "comet_ml": TrackerLibrary(
        ("comet_ml",), "[comet]", _comet, "run `comet login`, set COMET_API_KEY, or set COMET_START_ONLINE=0",
    ),
    "dagshub": TrackerLibrary(
        ("mlflow",), "[mlflow]", _needs("MLFLOW_TRACKING_URI", "DagsHub is an MLflow server for each repository"),
        "set MLFLOW_TRACKING_URI=https://dagshub.com/OWNER/REPOSITORY.mlflow, MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD",
    ),
    "dvclive": TrackerLibrary(("dvclive",), "dvclive"),
    "flyte": TrackerLibrary(
        (), "", _flyte, "show the run's report.html in a `flytekit.Deck` of the task that started the run",
    ),
    "kubeflow": TrackerLibrary(
        (), "", _needs("KUBEFLOW_TRAINER_SERVER_URL", "this is not a Kubeflow TrainJob with TrainJobRuntimeStatus"),
        "run the recipe in a TrainJob, in which every run reports its progress, also without this entry",
    ),
    "mlflow": TrackerLibrary(
        ("mlflow",), "[mlflow]", remedy="check MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD; without the first, runs are stored in mlflow.db of the current folder",
    ),
    "neptune": TrackerLibrary(
        ("neptune",), "neptune", _neptune, "set NEPTUNE_API_TOKEN and NEPTUNE_PROJECT, or set NEPTUNE_MODE=offline",
    ),
    "swanlab": TrackerLibrary(
        ("swanlab",), "[swanlab]", _swanlab,
        "run `swanlab login`, set SWANLAB_API_KEY, or set SWANLAB_MODE=offline and upload the run later with "
        "`swanlab sync`",
    ),
    "tensorboard": TrackerLibrary(("tensorboard", "tensorboardX"), "[track]"),
    "trackio": TrackerLibrary(
        ("trackio",), "[track]", _trackio,
        "run `hf auth login` or set TRACKIO_WRITE_TOKEN; without TRACKIO_SPACE_ID and TRACKIO_SERVER_URL the run is "
        "stored on this machine",
    ),
    "wandb": TrackerLibrary(
        ("wandb",), "[track]", _wandb,
        "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline and upload the run later with `wandb sync`",
    ),
}  # fmt: skip
"""All trackers that a recipe may name."""


def _ini(path: Path, section: str) -> dict[str, str]:
    """A section of a settings file; empty if there is none or it cannot be read, which the library itself will say."""
    parser = ConfigParser(interpolation=None)
    with suppress(OSError, Error, UnicodeDecodeError, RuntimeError):
        parser.read(path.expanduser(), encoding="utf-8")
    return dict(parser[section]) if parser.has_section(section) else {}


def _has_login(path: Path, host: str) -> bool:
    try:
        login = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return login is not None and bool(login[2])
