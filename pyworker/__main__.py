"""``python -m pyworker`` is the command line."""

from pyworker.cli import main

raise SystemExit(main())
