"""``python -m refrope``."""

import sys

from refrope.cli import main

sys.exit(main())
