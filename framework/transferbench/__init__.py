"""Transfer with known truth: how much of an object's appearance a configuration brings over."""
