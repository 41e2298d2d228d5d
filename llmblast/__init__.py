"""llmblast sends prompts to LLM endpoints as fast as their limits allow: `stream`, `run_async`, `run` and `pipeline`.

The names are loaded when they are first used, so that `import llmblast` costs next to nothing.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost more than all else here

if TYPE_CHECKING:
    from llmblast.api import run, run_async, stream
    from llmblast.api import run_async as arun
    from llmblast.endpoint_settings import EndpointSettings
    from llmblast.errors import (
        DefectError,
        ExitCode,
        GaveUpError,
        InputDamagedError,
        InputMissingError,
        LlmblastError,
        OutputBlockedError,
        OutputFailedError,
        RefusedError,
        StoppedError,
        UsageError,
    )
    from llmblast.pipelines import Stage, pipeline, run_pipeline
    from llmblast.results import EndpointSummary, PipelineSummary, Result, RunSummary

__all__ = [
    "DefectError",
    "EndpointSettings",
    "EndpointSummary",
    "ExitCode",
    "GaveUpError",
    "InputDamagedError",
    "InputMissingError",
    "LlmblastError",
    "OutputBlockedError",
    "OutputFailedError",
    "PipelineSummary",
    "RefusedError",
    "Result",
    "RunSummary",
    "Stage",
    "StoppedError",
    "UsageError",
    "arun",
    "pipeline",
    "run",
    "run_async",
    "run_pipeline",
    "stream",
]

_MODULES = {
    "EndpointSettings": "endpoint_settings",
    "EndpointSummary": "results",
    "PipelineSummary": "results",
    "Result": "results",
    "RunSummary": "results",
    "Stage": "pipelines",
    "arun": "api",
    "pipeline": "pipelines",
    "run": "api",
    "run_async": "api",
    "run_pipeline": "pipelines",
    "stream": "api",
}
"""Where the names are that are not in `errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value: object = getattr(module, "run_async" if name == "arun" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
