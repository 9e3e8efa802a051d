"""Commands of `medsa-predict` for the reader of a model card, who copies them."""

import shlex

from medsa_model.backbone import Model
from medsa_model.sam import ARCHITECTURES
from medsa_model.task import Task


def commands_of(task: Task, section: Model) -> list[str]:
    """Commands that ask for a structure as the adapter was trained to be asked, for a POSIX
    shell; by their names all are asked for at once."""
    file, point, box = "image.png", "120,80", "90,60,180,150"
    if task.volumes:
        file, point, box = "ct.nii.gz", "120,80,40", "90,60,180,150,40"
    one = ""
    if len(task.structures) > 1:
        name = shlex.quote(task.structures[0])
        one = f" --structure={name}" if name.startswith("-") else f" --structure {name}"
    prompts = {
        "click": f" --click {point}{one}", "clicks": f" --click {point}{one}",
        "box": f" --box {box}{one}", "none": "" if task.named else one, "class": "",
    }  # fmt: skip
    official = ARCHITECTURES[section.backbone].official_file
    backbone = f" --checkpoint {official}" if official and section.weights == "pretrained" else ""
    return [
        f"medsa-predict --adapter FOLDER{backbone} --input {file}{prompt} --out masks"
        for prompt in dict.fromkeys(prompts[kind] for kind in task.prompts)
    ]
