"""The result of a federation, kept at the site: the adapters that test cases are scored with.

`results/RUN/` in the site's state folder has the two files of an adapter, as `medsa-predict` reads
them. The coordinator asks for test scores once, with the final state.
"""

import shutil
from pathlib import Path

from safetensors import SafetensorError

from medsa_model.checkpoint import write_adapter
from medsa_model.config import RunConfig
from medsa_model.logs import logger
from medsa_model.state import AdapterState, Manifest


def keep_result(
    results: Path, config: RunConfig, state: AdapterState, manifest: Manifest
) -> Path | None:
    """Write the final `state` of a run into its folder of `results`, whole or not at all.

    That of an earlier end of the run is replaced. A disk that cannot take it is told in the log and
    keeps nobody from answering: returns `None` then, else the folder.
    """
    place = results / config.name
    draft = place.with_name(f".{place.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        write_adapter(draft, state, manifest, config.sections)
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        logger.warning(
            "the result of run %s cannot be kept (%s): ask the coordinator for the two files of "
            "the adapter", config.name, getattr(error, "strerror", None) or type(error).__name__,
        )  # fmt: skip
        return None
    logger.info("the adapters of run %s are kept: medsa-predict --adapter %s", config.name, place)
    return place
