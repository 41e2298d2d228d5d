"""Help panels: a command's options in groups, as plain text; typer groups them only with rich, which costs 60 ms."""

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

PANELS: Mapping[str, Sequence[str]] = {
    "Input": ("input", "format", "prompt", "system", "params", "own_fields", "media_root", "limit"),
    "Output": ("save", "errors", "echo", "body", "overwrite", "force", "retry_errors", "changed_settings"),
    "Endpoints": ("endpoints", "config", "model", "route", "hedge"),
    "Limits": ("rps", "rpm", "rpd", "tpm", "itpm", "otpm", "burst", "concurrency", "max_time"),
    "Retries": ("max_attempts", "max_wait", "max_errors", "timeout", "connect_timeout"),
    "Display": ("progress", "json", "quiet", "verbose", "timeline", "dry_run"),
    "Advanced": ("grace", "disk_wait", "spool", "transport", "processes"),
}
"""The settings of each panel, in the order of the help text."""
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}


def panel_of(name: str) -> str:
    """Return the panel of a setting."""
    return _PANEL_OF[name]


class PanelCommand(TyperCommand):
    """A command whose help shows its options in panels, in the order of `PANELS`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, each panel, and the options of no panel."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", *PANELS, "Other")}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                is_argument = param.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or "Other"
                sections[panel].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
