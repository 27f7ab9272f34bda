"""The formats of ratings files: our own, and those of other tools."""

from rlhf_loop.exchange.formats.base import SCORE_NAME, FileRow, Labels, Layout, NumberScale

__all__ = ["SCORE_NAME", "FileRow", "Labels", "Layout", "NumberScale"]
