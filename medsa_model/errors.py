"""Everything that can go wrong and that a person can mend.

::

    MedsaError                 exit code 1, printed without a traceback
    ├── ConfigError            a YAML file or an override is wrong; lists every problem at once
    ├── DataError              an image, a mask or a folder is not what the layout promises
    ├── CheckpointError        a weights file or a run directory is damaged or does not fit
    ├── ManifestError          an adapter state does not fit the model it is loaded into
    ├── PrivacyError           training would not keep to its differential privacy
    ├── FederationError        a round cannot be completed (no quorum, no usable update)
    ├── LedgerError            a site's privacy ledger is damaged or cannot be used
    ├── AuditError             an audit log is damaged, or an entry cannot be written
    ├── ConnectionProblem      the coordinator cannot be reached, or one side refuses the other
    └── Refused                a site does not do what it was asked for (`refusals.py`)

The message says what, where (key, case or site), what was found, what was expected, what to do.
"""


class MedsaError(Exception):
    """Root of the tree: the command line prints the message alone and ends with code 1."""


class ConfigError(MedsaError):
    """A configuration is not valid; the message lists all problems with their dotted keys."""


class DataError(MedsaError):
    """Data on disk is not what was promised; the message names the case, never a patient."""


class CheckpointError(MedsaError):
    """A weights file or run directory is missing, damaged, or belongs to something else."""


class ManifestError(MedsaError):
    """An adapter state has other names, shapes or dtypes than the model expects."""


class PrivacyError(MedsaError):
    """What differential privacy rests on does not hold; nothing was sent."""


class FederationError(MedsaError):
    """A round could not be completed."""


class LedgerError(MedsaError):
    """A privacy ledger is damaged, cut, or cannot be read or written; it is never replaced."""


class AuditError(MedsaError):
    """An audit log is damaged, or an entry does not fit it or the disk; training may go on."""


class ConnectionProblem(MedsaError):
    """Coordinator and site do not come together: address, certificate, key or clock."""
