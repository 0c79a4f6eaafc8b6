"""Shipped configurations (YAML); see :func:`framework.resources.config_file`."""
