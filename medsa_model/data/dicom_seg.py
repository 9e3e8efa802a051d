"""DICOM SEG: found structures as an object that a hospital's archive and viewers take.

It belongs to the patient and the study of its series: identifiers are copied from the slices, as
the standard wants (PS3.3, A.51). So it stays at the hospital like the images. Needs highdicom and
pydicom, the extra `dicom`, which are imported when a segmentation is written.
"""

import hashlib
import logging
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medsa_model import __version__
from medsa_model.data.dicom import INDEX
from medsa_model.data.geometry import Geometry
from medsa_model.data.pairing import list_files
from medsa_model.errors import ConfigError, DataError

ORGANS = {  # SNOMED CT terms by their keywords in PS3.16, and the side
    "spleen": ("Spleen", ""),
    "right_kidney": ("Kidney", "Right"),
    "left_kidney": ("Kidney", "Left"),
    "gallbladder": ("Gallbladder", ""),
    "esophagus": ("Esophagus", ""),
    "liver": ("Liver", ""),
    "stomach": ("Stomach", ""),
    "aorta": ("Aorta", ""),
    "inferior_vena_cava": ("InferiorVenaCava", ""),
    "portal_and_splenic_vein": ("PortalVein", ""),
    "pancreas": ("Pancreas", ""),
    "right_adrenal_gland": ("AdrenalGland", "Right"),
    "left_adrenal_gland": ("AdrenalGland", "Left"),
}
PRIVATE = "99FEDMEDSA"  # designator of names that are not in SNOMED CT
LONGEST = 64  # letters of a label, PS3.5: LO


def check_installed() -> None:
    """Raise `ConfigError` without the extra."""
    if find_spec("highdicom") is None:
        raise ConfigError(
            "DICOM SEG needs highdicom, which is not installed: pip install -c constraints.txt -e "
            '".[dicom]"'
        )


def write_segmentation(
    path: Path, folder: Path, case: str, labels: Tensor, geometry: Geometry,
    structures: Sequence[str],
) -> bool:  # fmt: skip
    """Write `labels (D, H, W)`, integers of the frame, on the slices of the series in `folder`.

    `geometry` is what `read_series` gave for it, `structures[0]` has number 1. Written whole or not
    at all; returns false, and writes nothing, when nothing was found: an object without segments is
    not allowed. Raises `DataError` when the slices lack what the standard needs, or the disk does.
    """
    present = [n for n in range(1, len(structures) + 1) if bool((labels == n).any())]
    if not present:
        return False
    planes = geometry.from_frame(labels.cpu().numpy()).transpose(2, 1, 0)  # slices, rows, columns
    numbered = np.zeros(planes.shape, np.uint8)  # segments are counted without gaps
    for segment, number in enumerate(present, start=1):
        numbered[planes == number] = segment
    draft = path.with_name(f".draft.{path.name}")
    heard = logging.getLogger("highdicom")
    before, heard.disabled = heard.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of tags
            _segmentation(folder, numbered, [structures[n - 1] for n in present]).save_as(draft)
        draft.replace(path)
    except Exception as error:  # a slice that lacks a tag can make the writer raise anything
        lacking = re.search(r"no attribute '([A-Z]\w+)'", str(error))  # a keyword, no value
        problem = f"no tag {lacking[1]}" if lacking else type(error).__name__
    else:
        return True
    finally:
        heard.disabled = before
    with suppress(OSError):
        draft.unlink()
    raise DataError(
        f"case {case}: its DICOM SEG cannot be written ({problem}); the slices may lack tags of "
        "the patient or the study that the standard needs, or the disk is full. The NIfTI mask "
        "does not depend on them"
    )


def _segmentation(folder: Path, planes: Any, names: Sequence[str]) -> Any:
    """The object; `planes (slices, rows, columns) uint8` in the order of the slices' positions."""
    import highdicom
    import pydicom
    from pydicom.sr.codedict import codes

    files = [path for path in list_files(folder) if path.name != INDEX]
    slices = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    directions = np.array(slices[0].ImageOrientationPatient, float)
    normal = np.cross(directions[:3], directions[3:])
    slices.sort(key=lambda each: float(np.dot(np.array(each.ImagePositionPatient, float), normal)))
    program = highdicom.AlgorithmIdentificationSequence(
        name="fed-medsa", family=codes.DCM.ArtificialIntelligence, version=__version__,
    )  # fmt: skip
    return highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=planes,
        segmentation_type="BINARY",
        segment_descriptions=[
            _segment(number, name, program) for number, name in enumerate(names, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="fed-medsa",
        manufacturer_model_name="fed-medsa",
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description="Research software; not for clinical use",
    )


def own_code(name: str) -> str:
    """The code of a structure that is not in the table: 16 characters, PS3.5: SH."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _segment(number: int, name: str, program: Any) -> Any:
    """What a segment is; a name that is no organ of the table gets a code of our own, which is a
    function of the name: a code has to mean one thing in all objects."""
    import highdicom
    from pydicom.sr.codedict import codes

    keyword, side = ORGANS.get(name, ("", ""))
    # of another name nothing is known: not even whether it is healthy
    kind = codes.SCT.Organ if keyword else codes.SCT.SpatialAndRelationalConcept
    known = getattr(codes.SCT, keyword) if keyword else None
    plain = name.replace("_", " ").replace("\\", " ")[:LONGEST]  # which would part two values
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=plain,
        segmented_property_category=kind,
        segmented_property_type=known or highdicom.sr.CodedConcept(own_code(name), PRIVATE, plain),
        algorithm_type="AUTOMATIC",
        algorithm_identification=program,
    )
    if side:
        modifier = highdicom.sr.CodedConcept.from_code(getattr(codes.SCT, side))
        of_type = described.SegmentedPropertyTypeCodeSequence[0]
        of_type.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return described
