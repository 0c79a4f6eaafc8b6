"""Training shared by personalizers: reference data, prompts, new words, the Lightning loop."""
