"""Federated adaptation of the Segment Anything Model to medical images: the library."""

import os

# No telemetry and no look for updates, ever: Flower and MLflow read these when imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

__version__ = "0.1.0"
