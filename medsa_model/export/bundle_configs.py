"""The files in `configs/` of a MONAI bundle."""

from importlib.metadata import version
from typing import Any

from medsa_model import __version__
from medsa_model.data.hounsfield import WINDOW
from medsa_model.trained import Trained

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
VERSION = "1.0.0"
STEPS = "medsa_model.export.bundle_steps"

LOGGING = """\
[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=line

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=line
args=(sys.stdout,)

[formatter_line]
format=%(asctime)s %(levelname)s %(message)s
"""


def inference(trained: Trained) -> dict[str, Any]:
    """`inference.json`: the parts that MONAI expects, in its configuration syntax."""
    structures = len(trained.task.structures)
    return {
        "imports": [f"$from {STEPS} import single_case"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/eval'",
        "checkpoint": None,
        "precision": "float32",
        "structure": [],
        "click": None,
        "off": None,
        "box": None,
        "prompts": None,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "medsa_model.export.bundle_network.network",
            "adapter": "$@bundle_root + '/models'",
            "checkpoint": "@checkpoint",
        },
        "network": "$@network_def.to(@device)",
        "datalist": {
            "_target_": f"{STEPS}.cases",
            "task": "$@network_def.task",
            "dataset_dir": "@dataset_dir",
            "structure": "@structure",
            "click": "@click",
            "off": "@off",
            "box": "@box",
            "prompts": "@prompts",
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": f"{STEPS}.OpenCase", "task": "$@network_def.task"}],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
            "collate_fn": "$single_case",
        },
        "inferer": {"_target_": f"{STEPS}.PromptInferer", "precision": "@precision"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": f"{STEPS}.WriteMask",
                    "output_dir": "@output_dir",
                    "structures": structures,
                }
            ],
        },
        "evaluator": {
            "_target_": f"{STEPS}.Evaluator",
            "dataloader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def metadata(trained: Trained) -> dict[str, Any]:
    """`metadata.json`, as MONAI's bundle specification has it."""
    task, size = trained.task, trained.manifest.image_size
    names = ", ".join(task.structures)
    what = "CT volumes" if task.volumes else "images"
    shape = [size, size, "n"] if task.volumes else [size, size]
    channels = task.structures if task.named else ("the structure that is asked for",)
    common = {"type": "image", "spatial_shape": shape, "dtype": "float32", "is_patch_data": False}
    image = {
        **common,
        "format": "magnitude",
        "modality": "CT" if task.volumes else "n/a",
        "num_channels": 3,
        "value_range": [0, 255],
        "channel_def": (
            dict.fromkeys("012", "grey") if task.volumes
            else {"0": "red", "1": "green", "2": "blue"}
        ),
    }  # fmt: skip
    pred = {
        **common,
        "format": "classes",
        "modality": "n/a",
        "num_channels": len(channels),
        "value_range": [],
        "channel_def": {str(number): f"logit of {name}" for number, name in enumerate(channels)},
    }
    low, high = task.window or WINDOW
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "adapters as they were trained"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"fed-medsa": __version__, "fire": "0.7"},
        "task": f"Segmentation of {names} in {what}",
        "description": (
            f"Segment Anything ({trained.model.backbone}) with adapters that were trained for "
            f"{names} in {what}, with the prompts {', '.join(task.prompts)}."
        ),
        "authors": "The sites of the federation",
        "copyright": "The weights: those who trained them. The code: see LICENSE.",
        "intended_use": "Research. No medical device: look at every mask before it is used.",
        "data_type": "NIfTI or DICOM series" if task.volumes else "PNG, JPEG, BMP or TIFF",
        "image_classes": (
            f"CT numbers from {low:g} to {high:g} HU scaled to [0, 255], three equal channels"
            if task.volumes
            else "three channels, red, green and blue, in [0, 255]"
        ),
        "pred_classes": f"one channel of logits for each of: {', '.join(channels)}",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }
