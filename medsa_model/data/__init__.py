"""Data sets: folders on disk, or generated images, become lists of cases.

`DataSet` is the registry. Every member is a section with a `kind`, `classes` (names of the mask
channels) and `open(root) -> list[Case]`, sorted by case id. A new data set is one file with one
section, and one name here.
"""

from typing import Annotated

from pydantic import Field

from medsa_model.data.btcv import Btcv
from medsa_model.data.folder import Folder
from medsa_model.data.isic import Isic
from medsa_model.data.ph2 import Ph2
from medsa_model.data.phantom import Phantom
from medsa_model.data.sample import Case, Sample
from medsa_model.data.synthetic import Synthetic

DataSet = Annotated[Isic | Folder | Ph2 | Synthetic | Btcv | Phantom, Field(discriminator="kind")]
VOLUMES = ("btcv", "phantom")
"""The kinds whose samples have slices."""
GENERATED = ("synthetic", "phantom")
"""The kinds that read nothing from disk."""

__all__ = [
    "GENERATED", "VOLUMES", "Btcv", "Case", "DataSet", "Folder", "Isic", "Ph2", "Phantom", "Sample",
    "Synthetic",
]  # fmt: skip
