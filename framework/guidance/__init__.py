"""Guidance: corrections of the predicted noise towards the warped reference."""
