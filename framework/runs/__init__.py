"""Run folders, whole files, fingerprints, progress, interruption, logging."""
