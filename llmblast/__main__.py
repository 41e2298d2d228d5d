"""`python -m llmblast`."""

from llmblast.cli import main

main()
