"""Differential privacy at the site: noisy training of patients, its accounting, its ledger."""
