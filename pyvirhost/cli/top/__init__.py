"""The command ``top``: a live table of hosts that fills the terminal."""
