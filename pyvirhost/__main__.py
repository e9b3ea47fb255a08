"""``python -m pyvirhost`` is the command ``pyvirhost``."""

from pyvirhost.cli import main

raise SystemExit(main())
