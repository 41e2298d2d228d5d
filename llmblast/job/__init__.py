"""The job: build the pipeline from settings, run it, close it; without terminal and signals.

`input_reader` and `engine` hold the flow together, `pipeline` builds, `run` drives, `check` only reads. Commands import
the one that they need, so that `llmblast check` does not wait for the network's packages.
"""
