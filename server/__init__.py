"""The coordinating site."""

import medsa_model as medsa_model  # before any flwr: switches its telemetry off
