"""What an image costs: FLOPs, U-Net evaluations, memory and time, against the plain pipeline."""
