"""The `llmblast` command: register its sub-commands and turn errors into messages and exit codes."""

import os
import sys
from importlib.util import find_spec
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from llmblast.cli.batches import batches
from llmblast.cli.check import check
from llmblast.cli.config import config
from llmblast.cli.convert import convert
from llmblast.cli.help_panels import PanelCommand
from llmblast.cli.mock import mock
from llmblast.cli.run import run
from llmblast.errors import ExitCode, LlmblastError
from llmblast.hiding import hide_user
from llmblast.setting_option import variable_of

UsageProblem: type[Exception] = typer.BadParameter.__mro__[1]
"""typer's class of errors in a command line; its package differs between versions of typer."""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
ENVIRONMENT = f"Every option can also be set by a variable, such as {variable_of('rps')}, or in the file of --config."
_EXAMPLES = """

\b
Examples:
  llmblast run prompts.jsonl -u http://127.0.0.1:8000/v1 -m my-model --rps 50
  cat prompts.jsonl | llmblast run - -o - -u mock: | jq -r .response
  llmblast check prompts.jsonl --rps 50
"""


class _Commands(TyperGroup):
    """The commands: flush standard output before the end, and report a closed pipe as BrokenPipeError."""

    def get_params(self, ctx: Any) -> Any:
        """Return the switches with a default: to convert None to a switch, typer loads pydantic, which takes 45 ms."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.is_flag and param.default is None:
                param.default = False
        return params

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            raise BrokenPipeError from None  # without errno, for which typer would exit with its own code


app = typer.Typer(
    name="llmblast",
    cls=_Commands,
    help=f"Send files of prompts to LLM endpoints as fast as their limits allow.{_EXAMPLES}",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes 60 ms, more than all else that --help does
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)
app.command(cls=PanelCommand, context_settings=CONTEXT, epilog=ENVIRONMENT, help=f"{run.__doc__}{_EXAMPLES}")(run)
app.command(cls=PanelCommand, context_settings=CONTEXT, epilog=ENVIRONMENT)(check)
app.command(cls=PanelCommand, context_settings=CONTEXT, epilog=ENVIRONMENT)(convert)
app.command(cls=PanelCommand, context_settings=CONTEXT, epilog=ENVIRONMENT)(batches)
app.command(context_settings=CONTEXT)(mock)
app.add_typer(config, name="config")


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", "-V", help="Print the version and exit."),
) -> None:
    """Send files of prompts to LLM endpoints as fast as their limits allow."""
    if show:
        from importlib.metadata import version as installed  # noqa: PLC0415 -- reads the file system

        typer.echo(f"llmblast {installed('llmblast')} ({_build()})")
        raise typer.Exit


def _build() -> str:
    """Return which of the two builds this is; nothing is imported to find out."""
    models = find_spec("llmblast.models")
    is_compiled = models is not None and not (models.origin or "").endswith(".py")
    return "compiled" if is_compiled else "pure Python"


def run_command_line() -> None:
    """Run the command line and exit with its code."""
    _open_missing_descriptors()
    try:
        sys.exit(app(prog_name=app.info.name, standalone_mode=False))
    except UsageProblem as problem:
        _explain_usage(problem)
    except typer.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except LlmblastError as error:
        sys.stderr.write(f"llmblast: {_printable(hide_user(str(error)))}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _end_without_output(ExitCode.READER_GONE)
    except OSError as error:
        if error.filename is not None:  # no open descriptor failed: a defect, which `main` reports
            raise
        sys.stderr.write(f"llmblast: standard output: cannot be written: {error.strerror}: write to another place\n")
        _end_without_output(ExitCode.OUTPUT_FAILED)


def _explain_usage(problem: Any) -> NoReturn:
    from llmblast.cli.usage import sentence_of  # noqa: PLC0415 -- only needed for a person's typing error

    if len(problem.format_message().splitlines()) > 1:  # the help of a command that needs another one
        sys.stderr.write(f"{problem.format_message()}\n")
    else:
        sys.stderr.write(f"llmblast: {_printable(sentence_of(problem, sys.argv[1:]))}\n")
    sys.exit(ExitCode.USAGE)


def _end_without_output(exit_code: ExitCode) -> NoReturn:
    """Exit, and discard buffered output, which Python would fail to write once more at shutdown."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)


def _printable(message: str) -> str:
    """Return the message with escape codes as text: the name of a file may hold some."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def _open_missing_descriptors() -> None:
    """Open closed standard descriptors (`<&-`), so that no file or socket gets the number of standard output.

    They are open for reading only: records for a closed standard output must fail, not vanish.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 -- None where it was closed; lives to the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
