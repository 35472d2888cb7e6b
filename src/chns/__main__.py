"""``python -m chns`` is the ``chns`` command."""

import sys

from chns.cli import main

sys.exit(main())
