"""`python -m drift` is `drift`."""

from drift.cli import main

raise SystemExit(main())
