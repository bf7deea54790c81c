"""Run the command line as ``python -m paperweight.cli``."""

from paperweight.cli import main

main()
