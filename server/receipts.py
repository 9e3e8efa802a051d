"""What the coordinator remembers of the sites' privacy ledgers: of each the last receipt.

    {site: {"entries": 12, "hash": ..., "ledger": id}}

A site tells the hashes of its ledger's last entries when it introduces itself and with every
training, so that a ledger that was set back, begun anew or written anew is noticed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from medsa_model.checkpoint import write_json
from medsa_model.errors import CheckpointError, ManifestError
from medsa_model.privacy.ledger import Receipt
from medsa_model.privacy.ledger_lines import ID_DIGITS, is_hash

LARGEST = 2**53  # entries; what JSON carries exactly


def read_receipts(place: Path) -> dict[str, Receipt]:
    """The receipts by site, empty when there is no file yet.

    Raises `CheckpointError` for a file that holds something else.
    """
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        receipts = {str(site): Receipt(**facts) for site, facts in found.items()}
        for receipt in receipts.values():
            accept_receipt(None, receipt)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, ManifestError) as error:
        raise CheckpointError(
            f"{place} holds no receipts of privacy ledgers ({type(error).__name__}): restore it "
            "from a backup; without it nobody notices that a site's ledger was set back"
        ) from error
    return receipts


def write_receipts(place: Path, receipts: Mapping[str, Receipt]) -> None:
    """Replace the file, whole or not at all."""
    write_json(place, {site: asdict(receipts[site]) for site in sorted(receipts)})


def accept_receipt(old: Receipt | None, new: Receipt) -> Receipt:
    """`new`, to be remembered; `old` is what was remembered of the site.

    Raises `ManifestError` when `new` is no receipt of a charge, or the ledger went backwards:
    fewer entries, as many with another hash, or another ledger.
    """
    if not (
        type(new.entries) is int
        and 1 <= new.entries <= LARGEST
        and is_hash(new.hash)
        and is_hash(new.ledger, ID_DIGITS)
    ):
        raise ManifestError("the receipt of the site's privacy ledger is none: entries, hash, id")
    if old is None:
        return new
    if new.ledger != old.ledger:
        found, expected = f"ledger {new.ledger}", old.ledger
    elif new.entries < old.entries:
        found, expected = f"{new.entries} entries", f"at least {old.entries}"
    elif new.entries == old.entries and new.hash != old.hash:
        found, expected = f"entry {new.entries} with hash {new.hash[:16]}", old.hash[:16]
    else:
        return new
    raise ManifestError(
        f"the site's privacy ledger went backwards: found {found}, expected {expected}; its "
        "engineer has to restore the latest ledger, nothing of this answer is used"
    )


def remember(place: Path, site: str, told: Mapping[str, object]) -> None:
    """Compare what a `site` tells of its ledger with what was remembered, and remember it.

    `told` is the record `ledger` of an answer: its id, the number of entries, and the hashes of the
    last ones. Raises `ManifestError` when the ledger went backwards or is another one.
    """
    hashes = told.get("hashes")
    if not isinstance(hashes, list) or not hashes:
        raise ManifestError(
            "the site has no privacy ledger, or tells nothing of it: expected one; if it had one, "
            "its engineer has to restore it"
        )
    entries, ledger = told.get("entries"), told.get("ledger")
    new = Receipt(entries, hashes[-1], ledger)  # type: ignore[arg-type]
    receipts = read_receipts(place)
    old = receipts.get(site)
    accepted = accept_receipt(old, new)
    if old:
        back = new.entries - old.entries
        if back < len(hashes) and hashes[-1 - back] != old.hash:
            raise ManifestError(
                f"the site's privacy ledger went backwards: entry {old.entries} has another hash "
                "than before; its engineer has to restore the latest ledger, nothing of this "
                "answer is used"
            )
    write_receipts(place, {**receipts, site: accepted})
