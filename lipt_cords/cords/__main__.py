"""``python -m lipt_cords.cords_plugin script.py ARGS``: a CORDS script, unchanged, plugged in."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from lipt_cords.cords.importing import script_stubs
from lipt_cords.cords.patches import enabled

USAGE = "usage: python -m lipt_cords.cords_plugin SCRIPT [ARGS ...]"


def main(arguments: list[str]) -> int:
    """Run a script as ``python script.py ARGS`` would, with the plug-in enabled.

    Args:
        arguments: the script's path and its arguments.

    Returns:
        0, or 2 when there is no such script. The script's own exit and errors pass through.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"{USAGE}\nRuns a script of CORDS with `warm_start` understood.\n")
        return 0 if arguments else 2
    script = Path(arguments[0])
    if not script.is_file():
        sys.stderr.write(f"{USAGE}\nno script at {script}: expected the path of a Python file\n")
        return 2
    sys.argv = list(arguments)
    # As Python does, and before CORDS is imported: a copy of it beside the script comes first.
    sys.path[0] = str(script.resolve().parent)
    with script_stubs(), enabled():
        runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
