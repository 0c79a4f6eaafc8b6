"""``python -m framework.toyworld.pretrain``."""

from framework.toyworld.pretrain.cli import main

if __name__ == "__main__":
    main()
