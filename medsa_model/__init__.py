"""Federated adaptation of the Segment Anything Model to medical images: the library."""

__version__ = "0.1.0"
