"""The class of each tracker, by the name that a recipe uses."""

from dpo_recipes.engine.trackers.base import Tracker
from dpo_recipes.engine.trackers.clearml import ClearML
from dpo_recipes.engine.trackers.comet import Comet
from dpo_recipes.engine.trackers.mlflow import MLflow
from dpo_recipes.engine.trackers.others import AzureML, CodeCarbon, DVCLive, Kubeflow, Neptune
from dpo_recipes.engine.trackers.swanlab import SwanLab
from dpo_recipes.engine.trackers.tensorboard import TensorBoard
from dpo_recipes.engine.trackers.trackio import Trackio
from dpo_recipes.engine.trackers.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {
    "azure_ml": AzureML,
    "clearml": ClearML,
    "codecarbon": CodeCarbon,
    "comet_ml": Comet,
    "dagshub": MLflow,
    "dvclive": DVCLive,
    "kubeflow": Kubeflow,
    "mlflow": MLflow,
    "neptune": Neptune,
    "swanlab": SwanLab,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}
"""All but `flyte`, to which a run cannot report (recipe/trackers.py says why)."""
