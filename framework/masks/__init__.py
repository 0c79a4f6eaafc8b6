"""Mask providers: where the concept is, in target and reference."""
