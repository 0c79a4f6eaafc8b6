"""DreamMatcher: text-to-image personalization by semantic matching, with swappable parts.

The data flow, one room after the other: concepts -> personalizers -> trajectories -> extractors ->
masks -> matchers -> injectors -> guidance -> sampler -> metrics.
"""

__version__ = "0.1.0"
