"""`python -m ftray`: the `ftray` command where only the package is at hand."""

from ftray.cli.main import main

main()
