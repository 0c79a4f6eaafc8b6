"""Ablations: a plan in one file -> every picture of every variant -> scores, tables, a report."""
