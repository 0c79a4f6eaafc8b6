"""Experiments: plan, draw, score, tables, page."""
