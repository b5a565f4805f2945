"""``python -m prism_plugin``: the ``prism`` command."""

import sys

from .cli import main

sys.exit(main())
