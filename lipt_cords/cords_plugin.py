"""The documented import path of :mod:`lipt_cords.cords`; ``python -m lipt_cords.cords_plugin``."""

import sys

from lipt_cords.cords import cords_loader, cords_version, disable, enable, enabled, import_cords

__all__ = ["cords_loader", "cords_version", "disable", "enable", "enabled", "import_cords"]

if __name__ == "__main__":
    from lipt_cords.cords.__main__ import main

    sys.exit(main(sys.argv[1:]))
