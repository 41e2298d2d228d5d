"""Help panels: print a command's options in groups, as plain text; typer groups them only with rich, in 60 ms."""

import re
from typing import Any, get_args

from typer.core import TyperCommand

from llmblast.setting_option import Group, is_shown

_NAME = re.compile(r"(?:, )?(--\w[\w-]*)")


class PanelCommand(TyperCommand):
    """A command whose help shows its options in panels, in the order of `Group`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, each panel, and the options of no panel."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", *get_args(Group), "Other")}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                is_argument = param.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or "Other"
                names = _NAME.sub(lambda name: name[0] if is_shown(name[1]) else "", record[0])
                sections[panel].append((names, record[1]))
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
