"""The result of a federation, kept at the site: the adapters that test cases are scored with.

`results/RUN-SHA256/` in the site's state folder (the first digits of the run's sha256) has the two
files of an adapter, as `medsa-predict` reads them. The coordinator asks for test scores once, with
the final state.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from medsa_model.checkpoint import to_disk, write_adapter
from medsa_model.config import RunConfig
from medsa_model.logs import logger
from medsa_model.state import AdapterState, Manifest

SPARE = 2  # as many times the size of a result must be free on the disk


def result_folder(results: Path, config: RunConfig) -> Path:
    """Where the result of a run is kept: runs of one name with other settings have others."""
    return results / f"{config.name}-{config.sha256[:8]}"


def keep_result(
    results: Path, config: RunConfig, state: AdapterState, manifest: Manifest
) -> Path | None:
    """Write the final `state` of a run into its folder of `results`, forced to the disk.

    That of an earlier end of the same run is replaced when the new one is whole. A disk that cannot
    take it is told in the log and keeps nobody from answering: returns `None` then, else the
    folder.
    """
    place = result_folder(results, config)
    draft, before = (place.with_name(f".{place.name}.{what}") for what in ("draft", "before"))
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        if shutil.disk_usage(draft).free < SPARE * manifest.size_in_bytes:
            raise OSError("the disk is nearly full")
        write_adapter(draft, state, manifest, config.sections)
        for path in [*draft.iterdir(), draft]:
            to_disk(path)
        shutil.rmtree(before, ignore_errors=True)
        if place.exists():
            place.rename(before)
        draft.rename(place)
        to_disk(results)
        shutil.rmtree(before, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if before.exists() and not place.exists():
            with suppress(OSError):
                before.rename(place)
        logger.warning(
            "the result of run %s cannot be kept (%s): ask the coordinator for the two files of "
            "the adapter", config.name, getattr(error, "strerror", None) or error,
        )  # fmt: skip
        return None
    logger.info("the adapters of run %s are kept: medsa-predict --adapter %s", config.name, place)
    return place
