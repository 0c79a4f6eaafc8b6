"""``python -m framework``: the command line, where ``dreammatcher`` is not on the path."""

import sys

from framework.cli.main import main

sys.exit(main())
