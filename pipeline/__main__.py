"""`python -m pipeline`: the same as `leadtime`."""

from pipeline.cli import main

main()
