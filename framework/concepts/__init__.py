"""Concepts: folders of pictures, pictures, prompts and tokens."""
