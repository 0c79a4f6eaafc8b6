"""Feature extractors: activations or images of both branches -> descriptors."""
