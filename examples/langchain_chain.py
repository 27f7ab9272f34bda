"""A chain of LangChain: a retriever finds documents, the live model puts the best first, a language model answers.

    .venv/bin/pip install --editable '.[langchain]'
    .venv/bin/python examples/langchain_chain.py    # after make demo

The retriever and the language model are stand-ins that need no network: put yours in their place.
"""

from __future__ import annotations

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from rlhf_loop import sample
from rlhf_loop.adapters.langchain import RlhfReranker

store = InMemoryVectorStore(DeterministicFakeEmbedding(size=64))
store.add_texts([candidate["text"] for candidate in sample.CANDIDATES])
retriever = store.as_retriever(search_kwargs={"k": 4})
reranker = RlhfReranker(top_n=2)


def find(question: str) -> list[Document]:
    """Retrieve many, keep the best two."""
    return list(reranker.compress_documents(retriever.invoke(question), question))


def as_text(documents: list[Document]) -> str:
    """Write the documents into the prompt."""
    return "\n\n".join(
        f"({document.metadata['relevance_score']:.2f}) {document.page_content}" for document in documents
    )


def stand_in(prompt: PromptValue) -> AIMessage:
    """Answer as a language model would that repeats the first document."""
    return AIMessage(prompt.to_string().split("\n\n")[1])


prompt = ChatPromptTemplate.from_template("Answer from these only:\n\n{documents}\n\nQuestion: {question}")
chain = (
    {"documents": RunnableLambda(find) | as_text, "question": RunnablePassthrough()}
    | prompt
    | RunnableLambda(stand_in)
    | StrOutputParser()
)

if __name__ == "__main__":
    print(chain.invoke(sample.QUESTION))
