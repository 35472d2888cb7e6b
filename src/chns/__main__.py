"""``python -m chns`` is the ``chns`` command."""

import sys

if not sys.flags.safe_path:  # no module is taken from the current folder, which may be a stranger's corpus
    del sys.path[0]

from chns.cli import main

sys.exit(main())
