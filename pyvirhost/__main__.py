"""``python -m pyvirhost`` is the command ``pyvirhost``."""

from pyvirhost.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
