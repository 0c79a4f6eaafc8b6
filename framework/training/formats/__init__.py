"""Weights of personalized models as files: recognising, reading and writing their formats."""
