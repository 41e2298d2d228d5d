"""The command line: one file a command, options in, Settings out, no logic."""

from llmblast.cli.main import main

__all__ = ["main"]
