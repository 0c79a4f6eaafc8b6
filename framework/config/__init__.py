"""Configuration: one page with every section's options; files, layers, overrides."""

from framework.config.page import Config, load_config, to_plain

__all__ = ["Config", "load_config", "to_plain"]
