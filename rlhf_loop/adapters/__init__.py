"""The live model as a reranker of LangChain, LlamaIndex, Haystack and rerankers: one module and one extra each.

Nothing is imported here: each module needs its own framework.
"""
