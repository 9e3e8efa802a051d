"""Simulated federations: the same apps on one machine."""

import medsa_model as medsa_model  # before any flwr: switches its telemetry off
