"""The job: builds the stations from Settings, runs them, closes them; signals and the exit code.

`input_reader` and `engine` hold the flow together, `stations` builds, `run` drives, `check` only reads. Commands import
the one that they need, so that `llmblast check` does not wait for the network's packages.
"""
