"""Run folders, whole files, progress, interruption, logging."""
