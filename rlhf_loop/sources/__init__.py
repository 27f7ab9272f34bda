"""Sources of candidates: one file for each, chosen by the settings."""

from rlhf_loop.sources.langchain_retriever import LangChainSource
from rlhf_loop.sources.source import Source, checked_sources, sources_from

__all__ = ["LangChainSource", "Source", "checked_sources", "sources_from"]
