"""Shipped configurations (YAML); see :func:`framework.config.resources.config_file`."""
