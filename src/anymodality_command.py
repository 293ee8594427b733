"""The entry point of the `anymodality` command: the command line is read before anything is loaded that takes time.

Importing a module of `transformers_anymodality` runs the `__init__` of the package first, which loads torch and
Transformers. Help, completion and mistyped options need neither, so the package is there at first without having run;
`transformers_anymodality.commands._base.Command` runs it when a command is about to.
"""

from __future__ import annotations

import importlib.util
import sys


def main() -> int:
    """Runs the command that `sys.argv` names; returns its exit status."""
    name = "transformers_anymodality"
    if name not in sys.modules:
        sys.modules[name] = importlib.util.module_from_spec(importlib.util.find_spec(name))
    from transformers_anymodality.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
