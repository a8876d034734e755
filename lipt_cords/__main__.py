"""``python -m lipt_cords``, and so ``torchrun -m lipt_cords``."""

import sys

from lipt_cords.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
