"""Injectors: what the target's self-attention takes from the reference."""
