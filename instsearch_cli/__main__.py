"""`python -m instsearch_cli` is `instsearch`."""

from instsearch_cli.main import main

main()
