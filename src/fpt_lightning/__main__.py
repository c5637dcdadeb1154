"""``python -m fpt_lightning`` is ``fpt``."""

import sys

from fpt_lightning.main import main

if __name__ == "__main__":
    sys.exit(main())
