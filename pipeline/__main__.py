"""`python -m pipeline`: the same as `leadtime`."""

from pipeline.cli.main import main

main()
