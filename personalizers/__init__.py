"""Personalizers: one personalization method a file. Each file registers itself."""
