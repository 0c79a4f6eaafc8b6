"""Scores: how like the concept a picture is, how like its prompt, and how sure we are of it."""
