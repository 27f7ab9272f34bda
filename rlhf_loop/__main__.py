"""`python -m rlhf_loop`: the command line where the script `rlhf-loop` is not on the path."""

from __future__ import annotations

from rlhf_loop.cli import main

if __name__ == "__main__":
    main(prog_name="rlhf-loop")
