"""What is installed, what the settings ask for, how the loop stands, and what to do about what is amiss.

Each finding is one line; one that is not all right says what to do. Nothing is changed: no table, file or folder is
made by looking.
"""

from __future__ import annotations

from rlhf_loop.cli.doctor.examining import examine, examine_environment
from rlhf_loop.cli.doctor.finding import SECTIONS, Finding
from rlhf_loop.cli.doctor.machine import EXTRAS

__all__ = ["EXTRAS", "SECTIONS", "Finding", "examine", "examine_environment"]
