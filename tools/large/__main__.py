"""`python -m tools.large`: see `tools.large.measure`."""

from __future__ import annotations

from tools.large.measure import main

main()
