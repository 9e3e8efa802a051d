"""How a federation treats sites that are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

from medsa_model.config import RunConfig
from medsa_model.errors import ConfigError
from medsa_model.logs import logger


@dataclass(frozen=True)
class Rules:
    """It starts with `nodes` connected nodes. The sites of a round together have `timeout` seconds
    to answer. A round with fewer than `quorum` usable updates is repeated `repeats` times: at first
    sites that are still at work are waited for as long again and others are asked again, later all
    that are missing are. After that it is skipped when `skip` is true, else it ends the run with a
    `FederationError`. With `farewell` the sites are told when the federation is over.
    """

    nodes: int = 1
    quorum: int = 1
    timeout: float = 3600.0
    repeats: int = 0
    skip: bool = False
    farewell: bool = False
    sites: Sequence[str] = ()
    """Names of all sites; of those that never came nothing else would tell."""
    receipts: str | None = None
    """File of what is remembered of the sites' privacy ledgers, also by later runs."""
    unchecked: bool = False
    """True: values of updates are not looked at; for simulations of attacks alone."""
    audit: str | None = None
    """File of the audit log; a simulation keeps none."""


def check_enough(config: RunConfig, sites: int) -> None:
    """Raise `ConfigError` when the strategy promises nothing with so few sites; warns when it does
    no more once a faulty one is left out.
    """
    least, rule = config.strategy.least_updates, getattr(config.strategy, "rule", None)
    faulty = getattr(rule, "faulty", 0)
    if sites < least:
        raise ConfigError(
            f"strategy.rule {getattr(rule, 'kind', '')} with faulty {faulty} needs the updates of "
            f"{least} sites in a round, there are {sites}; choose another rule, such as median, "
            "which needs 2 x faulty + 1, or have more sites"
        )
    if least > 1 and sites < least + faulty:
        logger.warning(
            "the strategy needs %d updates in a round, and there are %d sites: when one of them is "
            "rejected, silent or in quarantine, the round fails; have %d sites or more",
            least, sites, least + faulty,
        )  # fmt: skip
