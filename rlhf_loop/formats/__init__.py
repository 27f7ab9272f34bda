"""The formats of ratings files: one's own, and those of TRL, Argilla and Langfuse."""

from rlhf_loop.formats.layout import SCORE_NAME, FileRow, Labels, Layout

__all__ = ["SCORE_NAME", "FileRow", "Labels", "Layout"]
