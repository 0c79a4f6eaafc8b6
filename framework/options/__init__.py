"""Typed options of parts: a dataclass beside the class, every field with one line of help."""

from framework.options.fields import PartConfig, config_class, describe_options, option, options_of

__all__ = ["PartConfig", "config_class", "describe_options", "option", "options_of"]
