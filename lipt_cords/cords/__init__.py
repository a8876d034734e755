"""The plug-in for CORDS: importing it on current Python, and the ``warm_start`` key on its loaders.

``enable()`` at the top of a program, or ``python -m lipt_cords.cords_plugin script.py`` for a
script that stays as it is. CORDS is imported only when one of these is called.
"""

from lipt_cords.cords.factory import cords_loader
from lipt_cords.cords.importing import cords_version, import_cords
from lipt_cords.cords.patches import disable, enable, enabled

__all__ = ["cords_loader", "cords_version", "disable", "enable", "enabled", "import_cords"]
