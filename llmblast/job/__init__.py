"""The job: builds the stations from Settings, runs them, closes them; signals and the exit code.

`engine` and `intake` hold the flow together, `stations` builds, `run` drives, `check` only reads.
"""

from llmblast.job.check import check
from llmblast.job.run import run

__all__ = ["check", "run"]
