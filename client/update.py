"""The update that a site sends: its change against the global state, coded as the run says."""

from client.hospital import Site
from medsa_model.config import RunConfig
from medsa_model.error_feedback import encode_with_feedback
from medsa_model.records import ArrayRecord, from_bytes, to_arrays
from medsa_model.residues import keep_residue, load_residue
from medsa_model.state import AdapterState, Manifest
from medsa_model.update_coding import LOSSY


def to_update(
    site: Site, config: RunConfig, manifest: Manifest, trained: AdapterState,
    sent: AdapterState, round_: int,
) -> ArrayRecord:  # fmt: skip
    """What the site answers with in round `round_` (0 is the first), having trained from the state
    that it was `sent`.

    With error feedback the residue of the round before goes into it, and its own is kept before
    anything is sent. Raises `CheckpointError` when that cannot be written.
    """
    shapes, kind = manifest.shapes, manifest.updates
    if kind not in LOSSY or not config.message.error_feedback or site.residues is None:
        return to_arrays(trained, shapes, sent, kind)
    run = config.sha256
    residue = load_residue(site.residues, run, site.name, round_, shapes)
    data, left = encode_with_feedback(trained, residue, sent, shapes, kind)
    keep_residue(site.residues, run, site.name, round_, left)
    return from_bytes(data, shapes, kind)
