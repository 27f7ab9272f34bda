"""One call by each client, in an environment that has them and not this package: `python calls.py URL TOKEN < asked`.

Standard input is JSON with `query` and `documents`. Each line of the output is JSON: which client in which version,
what it had to be told, what it gave (pairs of index and score in its own order, or why it gave none), and with what
error it ends where its token is wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version

Pairs = list[tuple[int, float]]
#: Of the test double of a language model: by its seed, a draft is one of the documents.
_SEED = 0


@dataclass(frozen=True)
class Asked:
    """The address, the token and the content of a call."""

    url: str
    token: str
    query: str
    documents: Sequence[str]


@dataclass(frozen=True)
class Client:
    """A way to call: the package, the words that name the call, and what it had to be told in an engineer's words."""

    package: str
    call: str
    told: str
    run: Callable[[Asked], Pairs | str]


def cohere_v2(asked: Asked) -> Pairs:
    import cohere

    with cohere.ClientV2(asked.token, base_url=asked.url) as client:
        found = client.rerank(model="rerank-v3.5", query=asked.query, documents=asked.documents)
    assert found.meta is not None
    assert found.meta.billed_units is not None
    assert found.meta.billed_units.search_units == 1
    return _cohere(found.results)


def cohere_v1(asked: Asked) -> Pairs:
    import cohere

    documents = [{"text": text, "source": "a file"} for text in asked.documents]
    with cohere.Client(asked.token, base_url=asked.url) as client:
        found = client.rerank(
            model="rerank-english-v3.0", query=asked.query, documents=documents, return_documents=True
        )
    for one in found.results:
        assert one.document is not None
        assert one.document.text == asked.documents[one.index]
    return _cohere(found.results)


def cohere_async(asked: Asked) -> Pairs:
    import cohere

    async def ask() -> Pairs:
        async with cohere.AsyncClientV2(asked.token, base_url=asked.url) as client:
            found = await client.rerank(model="rerank-v3.5", query=asked.query, documents=asked.documents)
        return _cohere(found.results)

    return asyncio.run(ask())


def litellm_as(provider: str, path: str = "") -> Callable[[Asked], Pairs]:
    def run(asked: Asked) -> Pairs:
        import litellm

        litellm.suppress_debug_info = True
        found = litellm.rerank(
            model=f"{provider}/any",
            query=asked.query,
            documents=list(asked.documents),
            api_base=f"{asked.url}{path}",
            api_key=asked.token,
        )
        for one in found.results:
            if "document" in one:
                assert one["document"] == {"text": asked.documents[one["index"]]}, one
        return [(one["index"], one["relevance_score"]) for one in found.results]

    return run


def litellm_async(asked: Asked) -> Pairs:
    import litellm

    async def ask() -> Pairs:
        found = await litellm.arerank(
            model="cohere/any",
            query=asked.query,
            documents=list(asked.documents),
            api_base=asked.url,
            api_key=asked.token,
        )
        return [(one["index"], one["relevance_score"]) for one in found.results]

    return asyncio.run(ask())


def langchain_cohere(asked: Asked) -> Pairs:
    from langchain_cohere import CohereRerank

    compressor = CohereRerank(cohere_api_key=asked.token, base_url=asked.url, model="any", top_n=len(asked.documents))
    return _langchain(compressor, asked)


def langchain_jina(asked: Asked) -> Pairs:
    from langchain_community.document_compressors import JinaRerank, jina_rerank

    # It has no parameter for the address.
    jina_rerank.JINA_API_URL = f"{asked.url}/v1/rerank"
    return _langchain(JinaRerank(jina_api_key=asked.token, top_n=len(asked.documents)), asked)


def llama_cohere(asked: Asked) -> Pairs:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return _llama(CohereRerank(api_key=asked.token, base_url=asked.url, top_n=len(asked.documents)), asked)


def llama_tei(asked: Asked) -> Pairs:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    processor = TextEmbeddingInference(
        base_url=asked.url, auth_token=f"Bearer {asked.token}", top_n=len(asked.documents)
    )
    return _llama(processor, asked)


def rerankers_as(provider: str, path: str) -> Callable[[Asked], Pairs]:
    def run(asked: Asked) -> Pairs:
        from rerankers.models.api_rankers import APIRanker

        ranker = APIRanker("any", asked.token, provider, verbose=0, url=f"{asked.url}{path}")
        found = ranker.rank(asked.query, list(asked.documents))
        return [(int(one.document.doc_id), one.score) for one in found.results]

    return run


def together_rerank(asked: Asked) -> Pairs:
    from together import Together

    with Together(api_key=asked.token, base_url=asked.url, max_retries=0) as client:
        found = client.rerank.create(
            model="any", query=asked.query, documents=list(asked.documents), return_documents=True
        )
    assert found.object == "rerank"
    assert found.usage is not None
    assert found.usage.completion_tokens == 0
    assert [one.document.text for one in found.results] == [asked.documents[one.index] for one in found.results]
    return _cohere(found.results)


def xinference(asked: Asked) -> Pairs:
    from xinference_client.client.restful.restful_client import Client as Xinference

    model = Xinference(asked.url, api_key=asked.token).get_model("any")
    found = model.rerank(list(asked.documents), asked.query, top_n=None, return_documents=True)
    for one in found["results"]:
        assert one["document"]["text"] == asked.documents[one["index"]]
    return [(one["index"], one["relevance_score"]) for one in found["results"]]


def openai_chat(asked: Asked) -> str:
    import openai

    with openai.OpenAI(base_url=f"{asked.url}/v1", api_key=asked.token, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["rlhf-loop"]
        found = client.chat.completions.create(model="rlhf-loop", messages=_messages(asked), seed=_SEED)
    assert found.usage is not None
    assert found.usage.completion_tokens == 7 * len(asked.documents)
    return found.choices[0].message.content or ""


def openai_stream(asked: Asked) -> str:
    import openai

    with openai.OpenAI(base_url=f"{asked.url}/v1", api_key=asked.token, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="any", messages=_messages(asked), seed=_SEED, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert chunks[-1].usage is not None
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def langchain_chat(asked: Asked) -> str:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=f"{asked.url}/v1", api_key=asked.token, model="any", seed=_SEED, max_retries=0)
    text, streamed = str(chat.invoke(asked.query).content), "".join(str(p.content) for p in chat.stream(asked.query))
    assert text == streamed, streamed
    return text


def litellm_chat(asked: Asked) -> str:
    import litellm

    told = {"model": "openai/any", "api_base": f"{asked.url}/v1", "api_key": asked.token, "max_retries": 0}
    found = litellm.completion(messages=_messages(asked), seed=_SEED, **told)
    stream = litellm.completion(messages=_messages(asked), seed=_SEED, stream=True, **told)
    text = str(found.choices[0].message.content)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    return text


def _messages(asked: Asked) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked.query}]


def hugging_face(asked: Asked) -> Pairs:
    from huggingface_hub import InferenceClient

    calls = [name for name in dir(InferenceClient) if "rank" in name]
    raise NotImplementedError(f"has no call for it ({calls or 'none has rank in its name'})")


CLIENTS = (
    Client("cohere", "ClientV2", "base_url, api_key", cohere_v2),
    Client("cohere", "Client", "base_url, api_key", cohere_v1),
    Client("cohere", "AsyncClientV2", "base_url, api_key", cohere_async),
    Client("litellm", "rerank, cohere/any", "api_base, api_key", litellm_as("cohere")),
    Client("litellm", "arerank, cohere/any", "api_base, api_key", litellm_async),
    Client("litellm", "rerank, jina_ai/any", "api_base, api_key", litellm_as("jina_ai")),
    Client("litellm", "rerank, hosted_vllm/any", "api_base, api_key", litellm_as("hosted_vllm")),
    Client("litellm", "rerank, infinity/any", "api_base with /infinity, api_key", litellm_as("infinity", "/infinity")),
    Client("litellm", "rerank, huggingface/any", "api_base, api_key", litellm_as("huggingface")),
    Client("langchain-cohere", "CohereRerank", "base_url, cohere_api_key", langchain_cohere),
    Client("langchain-community", "JinaRerank", "jina_api_key, and JINA_API_URL of its module", langchain_jina),
    Client("llama-index-postprocessor-cohere-rerank", "CohereRerank", "base_url, api_key", llama_cohere),
    Client(
        "llama-index-postprocessor-tei-rerank",
        "TextEmbeddingInference",
        'base_url, auth_token="Bearer TOKEN"',
        llama_tei,
    ),
    Client("rerankers", 'APIRanker, "cohere"', "url with /v1/rerank, api_key", rerankers_as("cohere", "/v1/rerank")),
    Client("rerankers", 'APIRanker, "jina"', "url with /v1/rerank, api_key", rerankers_as("jina", "/v1/rerank")),
    Client(
        "rerankers",
        'APIRanker, "text-embeddings-inference"',
        "url with /rerank, api_key",
        rerankers_as("text-embeddings-inference", "/rerank"),
    ),
    Client("together", "rerank.create", "base_url, api_key", together_rerank),
    Client("xinference-client", "get_model, rerank", "base_url, api_key", xinference),
    Client("openai", "chat.completions.create", "base_url with /v1, api_key", openai_chat),
    Client("openai", "chat.completions.create, stream", "base_url with /v1, api_key", openai_stream),
    Client("langchain-openai", "ChatOpenAI, invoke and stream", "base_url with /v1, api_key", langchain_chat),
    Client("litellm", "completion, openai/any, and stream", "api_base with /v1, api_key", litellm_chat),
    Client("huggingface-hub", "InferenceClient", "", hugging_face),
)


def _cohere(results: Iterable[object]) -> Pairs:
    return [(one.index, one.relevance_score) for one in results]  # type: ignore[attr-defined]


def _langchain(compressor: object, asked: Asked) -> Pairs:
    from langchain_core.documents import Document

    given = [Document(text, metadata={"place": place}) for place, text in enumerate(asked.documents)]
    found = compressor.compress_documents(given, asked.query)  # type: ignore[attr-defined]
    return [(one.metadata["place"], one.metadata["relevance_score"]) for one in found]


def _llama(processor: object, asked: Asked) -> Pairs:
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    given = [NodeWithScore(node=TextNode(text=text, id_=str(place))) for place, text in enumerate(asked.documents)]
    found = processor.postprocess_nodes(given, QueryBundle(asked.query))  # type: ignore[attr-defined]
    return [(int(one.node.node_id), one.score) for one in found]


def _refused(client: Client, asked: Asked) -> str:
    try:
        client.run(replace(asked, token="rlhf_wrong"))
    except Exception as error:  # its name is what is wanted
        return type(error).__name__
    return ""


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    url, token = sys.argv[1:]
    asked = Asked(url, token, **json.load(sys.stdin))
    for client in CLIENTS:
        said = {name: value for name, value in asdict(client).items() if name != "run"}
        said["version"] = version(client.package)
        try:
            found = client.run(asked)
            said["text" if isinstance(found, str) else "pairs"] = found
        except NotImplementedError as error:
            said["not_for_it"] = str(error)
        except Exception as error:  # whatever a client makes of the answer, the table says it
            said["failed"] = f"{type(error).__name__}: {error}"
        else:
            said["refused"] = _refused(client, asked)
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
