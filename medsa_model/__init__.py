"""Federated adaptation of the Segment Anything Model to medical images: the library."""

import os

# No telemetry and no look for updates, ever: Flower reads these when it is imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

__version__ = "0.1.0"
