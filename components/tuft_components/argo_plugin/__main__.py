"""`python -m tuft_components.argo_plugin`."""

from __future__ import annotations

import sys

from tuft_components.argo_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
