"""`python -m simrec` is the `simrec` command."""

from simrec.cli import main

main()
