"""A run that is under way: what every exchange of it needs, and where it notes what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid

from medsa_model.audit_log import record
from medsa_model.config import RunConfig
from medsa_model.logs import append_metrics, logger
from medsa_model.rejections import Code
from medsa_model.shown import clean
from medsa_model.state import Manifest
from server.introduction import Node
from server.roster import STRIKES, Roster, present
from server.rules import Rules


@dataclass(frozen=True)
class Study:
    """`run` is its directory; `roster` changes while it goes on."""

    grid: Grid
    config: RunConfig
    run: Path
    manifest: Manifest
    rules: Rules
    roster: Roster

    @property
    def quorum(self) -> int:
        """Fewest usable updates of a round: the federation's, and what the strategy rests on."""
        return max(self.rules.quorum, self.config.strategy.least_updates, 1)

    def present(self, wanted: Sequence[str] | None) -> list[Node]:
        """The connected sites among `wanted` (`None`: all) by name, introduced and not excluded."""
        rules, roster = self.rules, self.roster
        possible = {*(rules.sites if wanted is None else wanted)}
        least = self.quorum
        if possible:  # what can never be reached is not waited for
            least = min(least, len(possible - roster.barred - roster.quarantined))
        return present(self.grid, roster, rules.nodes, least, rules.timeout, wanted, self.audit)

    def note(self, event: str, **facts: object) -> None:
        """Write an event into metrics.jsonl and the audit log."""
        append_metrics(self.run, event, **facts)
        self.audit(event, **facts)

    def audit(self, event: str, **facts: object) -> None:
        """Write an event into the audit log alone."""
        if self.rules.audit:
            record(Path(self.rules.audit), event, **facts)

    def reject(
        self, number: int, site: str, code: Code, reason: str, what: str, **more: str | None
    ) -> None:
        """Note that an answer of a site is not used in round `number`, and count a strike.

        `what` is "update" or "scores"; `more` are further facts: `state`, the sha256 of the arrays
        that came, and `refusal`, the name of the reason that the site gave.
        """
        reason, known = clean(reason), {name: text for name, text in more.items() if text}
        shown = known.get("refusal", code)
        logger.warning("round %d: no %s from %s: %s (%s)", number, what, site, reason, shown)
        self.note("rejected", round=number, site=site, code=code, reason=reason, what=what, **known)
        if self.roster.strike(site, code):
            logger.error(
                "round %d: %s is in quarantine after %d rejected answers: it is not asked any "
                "more; when its engineer has mended it, go on with --resume --readmit %s",
                number, site, STRIKES, site,
            )  # fmt: skip
            self.note("quarantined", round=number, site=site)
