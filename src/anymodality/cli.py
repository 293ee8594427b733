"""The `anymodality` command, with all modules of `commands`."""

import importlib
import sys
from collections.abc import Sequence

from anymodality.commands._base import Command, group


# In the order of use. Each is a module of `commands` with a function of the same name, or an `app` of several.
_COMMANDS = "compose convert data features inspect generate chat evaluate compare card push export serve demo".split()

app = group(
    "Image, audio, IMU and other inputs for any language model. `anymodality COMMAND --help` shows an example."
)
for _name in _COMMANDS:
    _module = importlib.import_module(f"{__package__}.commands.{_name}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name, cls=getattr(_module, "CLASS", Command))(getattr(_module, _name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for an error that a user can fix, 2 for an invalid command line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(args=words, obj=words, prog_name="anymodality")
    except SystemExit as done:
        return int(done.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
