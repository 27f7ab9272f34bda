"""The text encoder: vectors of whole texts or of passages, each computed once and then remembered."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

import numpy as np
from tokenizers import Tokenizer

from rlhf_loop.encoders.runtime import UNRELATED, Runtime, Vectors, cores, with_cross
from rlhf_loop.encoders.shared_vectors import SharedVectors
from rlhf_loop.encoders.tokenizer import PassageSplitter, blocks, markers_of, spans_of
from rlhf_loop.encoders.tuned import Checkpoint, Tunable, TunedLayers
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import EncoderError
from rlhf_loop.utils.concurrency import FairLock
from rlhf_loop.utils.languages import ENGLISH, Language, language_named
from rlhf_loop.utils.lru import LRUCache

#: Tokens of a passage: long enough for a thought, short enough that one vector can hold it.
PASSAGE_TOKENS = 96
#: Tokens from the start of one passage to the start of the next: a third of each passage is read twice.
PASSAGE_STRIDE = 64
#: Tokens that a window shares with the next one: the overlap only keeps words in one piece.
_OVERLAP = 16

#: New texts, and characters of them, that are cut, computed and stored at a time: bounds the memory, and what a kill
#: can lose. A text that is longer is a chunk of its own.
_CHUNK, _CHUNK_CHARS = 128, 256 * 1024
#: Texts for each core that a thread computes before others have their turn: a fraction of a second, however long the
#: documents are, and enough that the cores seldom wait for each other.
_TURN = 32
#: The cosine by all-MiniLM-L6-v2 of a question and a passage from which on they may have something to do with each
#: other: no two of the questions in `folder.py`, which have nothing in common, come as near (0.258 at most).
_RELATED = 0.26
#: Memory for how many tokens the texts have that were counted lately: some 10,000 of them.
_COUNTED_BYTES = 8_000_000
#: Memory for vectors that others keep and lend.
_LENT_BYTES = 16_000_000


class UnknownTextError(LookupError):
    """Texts are not in the cache, and nothing may be computed. `compute` makes them known."""

    def __init__(self, count: int, compute: Callable[[], object]) -> None:
        super().__init__(f"{count} texts are new.")
        self.compute = compute


#: The share of tokens that are unknown, and the letters a token, beyond which a language is not known. all-MiniLM-L6-v2
#: has 0 % and 4.5 to 5 in English texts, 3 in German and Spanish ones, 68 % in Chinese ones.
MOST_UNKNOWN, FEWEST_LETTERS = 0.05, 3.6
_FEW_LETTERS = 500
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_LATIN = re.compile("[^A-Za-zÀ-ɏ]")

_Ids = list[list[int]]
_Compute = Callable[[Sequence[str]], list[Vectors]]
#: Texts by what is made of them.
_Ahead = Sequence[tuple[str, Sequence[str]]]


class TextEncoder:
    """A runtime with its tokenizer and, unless `cache` is None, the vector cache. Safe to share between threads.

    One thread at a time computes, and not for long: a runtime uses all its cores for one call, and takes memory for
    each call at once. `computed` counts the texts that were computed so far, `remembered` those that the cache knew.
    `language` is that of the texts, for all who take words and sentences apart before they are encoded. `cross` reads
    pairs of question and passage, if there is one.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        cache: VectorCache | None = None,
        *,
        language: Language | None = None,
        cross: Runtime | None = None,
    ) -> None:
        self._runtime = runtime
        self._cross = cross
        self._tokenizer = tokenizer
        self._shape = shape = runtime.shape
        self.language = language or language_named(ENGLISH)
        self._passages = _splitter(tokenizer, shape.window - shape.markers, shape.passage, passages=True)
        self._titles = _splitter(tokenizer, shape.window - shape.markers, shape.passage)
        self._windows = _splitter(tokenizer, shape.window - shape.markers, shape.query)
        self._cache = cache
        self._lent: LRUCache[Vectors] = LRUCache(max_bytes=_LENT_BYTES)
        self._counted: LRUCache[int] = LRUCache(max_bytes=_COUNTED_BYTES)
        self._turn = FairLock()
        self._process = os.getpid()
        self._computes = self._keeps = True
        self._singly = False
        self.computed = self.remembered = 0
        # Part of each key: the same weights behind another tokenizer give other vectors.
        self._tokenizer_sum = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()

    @property
    def id(self) -> str:
        """The model and its precision; a reward model works only with the model that it was trained on."""
        return self._runtime.id

    @property
    def full_id(self) -> str:
        """The id, with that of the cross-encoder behind it if there is one."""
        return with_cross(self.id, self._cross.id) if self._cross else self.id

    @property
    def crossed(self) -> bool:
        """True if there is a cross-encoder beside it."""
        return self._cross is not None

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._shape.dimension

    @property
    def window(self) -> int:
        """Tokens that are read at a time, the markers of a text's ends included."""
        return self._shape.window

    def as_near(self, cosine: float) -> float:
        """Return the cosine that says by this encoder what `cosine` says by all-MiniLM-L6-v2, of two questions.

        By some encoders all texts point into about the same direction: unrelated ones have a cosine of 0.7 already.
        """
        unrelated = self._shape.unrelated
        if unrelated <= UNRELATED:
            return cosine
        return unrelated + (1 - unrelated) * (cosine - UNRELATED) / (1 - UNRELATED)

    def related(self, question: str, answers: Sequence[str]) -> bool:
        """Tell whether a passage of any answer may have something to do with the question, well answered or not."""
        (asked,) = self.encode_whole([question])
        return any((vectors @ asked).max() >= self.as_near(_RELATED) for vectors in self.encode_passages(answers))

    def reading(self, language: Language) -> TextEncoder:
        """Return the same encoder for texts in that language."""
        if language.code == self.language.code:
            return self
        other = copy.copy(self)
        other.language = language
        return other

    def uncached(self) -> TextEncoder:
        """Return the same encoder, but one that computes all anew: to measure it."""
        return self.with_cache(None)

    def with_cache(self, cache: VectorCache | None) -> TextEncoder:
        """Return the same encoder with another cache; what it was lent it does not know either."""
        other = copy.copy(self)
        other._cache, other._lent = cache, LRUCache(max_bytes=0)
        return other

    def singly(self) -> TextEncoder:
        """Return the same encoder, but one that computes each piece by itself.

        What else is in a batch changes a vector in its last digits; so it is the same wherever it is computed. On one
        thread that takes no longer.
        """
        alone = copy.copy(self)
        alone._singly = True
        return alone

    def only_known(self) -> TextEncoder:
        """Return the same encoder, but one that computes nothing: a text that is not known is an `UnknownTextError`."""
        known = copy.copy(self)
        known._computes = False
        return known

    def tuned(self, layers: TunedLayers) -> TextEncoder:
        """Return the same encoder with other upper layers, whose vectors are kept beside those of this one.

        Raises:
            EncoderError: its layers cannot be tuned, or the cache folder cannot be written.
            ModelFileError: the layers do not fit it.
        """
        other, runtime = copy.copy(self), self._tunable()
        loaded = runtime.loaded(layers)
        if loaded is None:
            # Only to load takes a turn: a ranking of what is known waits for nobody's batches.
            with self._my_turn():
                loaded = runtime.tuned(layers)
        other._runtime = loaded
        return other

    def _tunable(self) -> Tunable:
        if not isinstance(self._runtime, Tunable):
            raise EncoderError(
                f"The encoder {self.id} runs where no layers can be replaced. Unset RLHF_ENCODER_RUNTIME: ONNX Runtime "
                "serves tuned layers."
            )
        return self._runtime

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (texts, dimension), of as many of its first tokens as a window has."""
        return self._stacked(self._remembered("text", texts, self._compute_texts))

    @property
    def shared(self) -> SharedVectors | None:
        """The vectors that several machines share, None if there are none."""
        return self._cache.shared if self._cache else None

    def encode_whole(
        self, texts: Sequence[str], *, passages: Sequence[str] = (), answers: Sequence[str] = ()
    ) -> Vectors:
        """Return one unit vector a text, shape (texts, dimension); of a long text it is the mean over its windows.

        The texts are questions or parts of them, then come those of `passages`, which is all the same to an encoder
        that does not tell questions from answers. `answers` are wanted next, by `encode_passages`: if any text here is
        new, the shared vectors are asked for theirs along with it.
        """
        ahead = [(self._passages.id, answers)]
        if self._windows.id == self._titles.id:
            windows = self._whole(self._windows, [*texts, *passages], ahead)
        else:
            ahead.append((self._titles.id, passages))
            windows = self._whole(self._windows, texts, ahead) + self._whole(self._titles, passages)
        return self._stacked([vectors if len(vectors) == 1 else _mean(vectors) for vectors in windows])

    def _whole(self, splitter: PassageSplitter, texts: Sequence[str], ahead: _Ahead = ()) -> list[Vectors]:
        return self._remembered(splitter.id, texts, partial(self._compute_passages, splitter), ahead)

    def encode_passages(self, texts: Sequence[str]) -> list[Vectors]:
        """Return for each text the unit vectors of its passages, shape (passages, dimension); it is read to its end."""
        return self._whole(self._passages, texts)

    def checkpoint(self) -> Checkpoint:
        """Return the weights that layers are trained from.

        Raises:
            EncoderError: its layers cannot be trained.
        """
        return self._tunable().checkpoint()

    def token_ids(self, questions: Sequence[str], answers: Sequence[str], *, tokens: int) -> tuple[_Ids, list[_Ids]]:
        """Return what is read of questions and of each passage of answers, as numbers of tokens, markers included.

        They are those of `encode_beginnings`, which reads so many `tokens` of a question, and of `encode_passages`.
        """
        passages = self._passages.split(list(map(_encodable, answers)))
        pieces = iter(self._ids([*self._beginnings(questions, tokens), *(piece for of in passages for piece in of)]))
        return [next(pieces) for _ in questions], [[next(pieces) for _ in of] for of in passages]

    def _ids(self, pieces: Sequence[str]) -> _Ids:
        before, behind = markers_of(self._tokenizer)
        room = self._shape.window - self._shape.markers
        found = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        return [[*before, *encoding.ids[:room], *behind] for encoding in found]

    def _beginnings(self, questions: Sequence[str], tokens: int) -> list[str]:
        return [self._shape.query + self.beginning(_encodable(question), tokens=tokens) for question in questions]

    def encode_beginnings(self, questions: Sequence[str], *, tokens: int) -> Vectors:
        """Return one unit vector a question, shape (questions, dimension), of so many of its first tokens."""

        def compute(texts: Sequence[str]) -> list[Vectors]:
            return self._compute_texts(self._beginnings(texts, tokens))

        return self._stacked(self._remembered(f"beginning:{tokens}", questions, compute))

    def encode_places(self, places: Sequence[tuple[str, int]]) -> Vectors:
        """Return one unit vector for each passage that is named, shape (passages, dimension).

        A passage is named by a text and its place in it, from 0, as in what `encode_passages` returns.
        """
        return self._at_places("place", [(text, place, None) for text, place in places])

    def cross_scores(self, places: Sequence[tuple[str, int, str]]) -> Vectors:
        """Return the cross-encoder's logit of each passage that is named as in `encode_places`, beside its question.

        Raises:
            EncoderError: there is no cross-encoder.
        """
        if self._cross is None:
            raise EncoderError("There is no cross-encoder to score by. Set RLHF_CROSS_ENCODER to that of the model.")
        other = copy.copy(self)
        other._runtime, other._shape = self._cross, replace(self._shape, dimension=1)
        return other._at_places("pair", places)[:, 0]

    def _at_places(self, kind: str, places: Sequence[tuple[str, int, str | None]]) -> Vectors:
        """Return what the runtime makes of passages, each beside a question if there is one."""
        # A long text has thousands of passages: it is read once, and not a part of each one's name.
        texts = dict.fromkeys(text for text, _, _ in places)
        digest = {text: hashlib.sha256(_encodable(text).encode()).hexdigest() for text in texts}
        known = {name: _encodable(text) for text, name in digest.items()}
        names = [
            f"{place} {digest[text]}" + ("" if question is None else f" {question}") for text, place, question in places
        ]
        compute = partial(self._compute_places, known)
        return self._stacked(self._remembered(f"{kind}:{self._passages.id}", names, compute))

    def _compute_places(self, known: Mapping[str, str], places: Sequence[str]) -> list[Vectors]:
        named = [(int(place), known[name], asked) for place, name, *asked in (of.split(" ", 2) for of in places)]
        texts = list(dict.fromkeys(text for _, text, _ in named))
        passages = dict(zip(texts, self._passages.split(texts), strict=True))
        pieces = [
            pair(asked[0], passages[text][place].removeprefix(self._shape.passage)) if asked else passages[text][place]
            for place, text, asked in named
        ]
        return list(self._computed(pieces, count=len(named))[:, np.newaxis])

    def passages_to_keep(self, texts: Sequence[str]) -> list[Vectors]:
        """Return what `encode_passages` does, for somebody who keeps it: nothing goes into the cache."""
        reader = copy.copy(self)
        reader._keeps = False
        return reader.encode_passages(texts)

    def lend_passages(self, texts: Sequence[str], vectors: Sequence[Vectors]) -> None:
        """Take what `passages_to_keep` returned as known, for as long as there is memory; no file is written."""
        for text, matrix in zip(texts, vectors, strict=True):
            key = self._key(self._passages.id, _encodable(text))
            if self._lent.get(key) is None:
                # A copy: what is lent may be a view into all that a search returned, and would keep that in memory.
                own = np.array(matrix)
                own.flags.writeable = False
                self._lent.put(key, own, own.nbytes)

    def count_cut(self, texts: Iterable[str]) -> int:
        """Return how many of the texts are longer than the window, so that `encode` reads only their beginning."""
        encodings = self._tokenizer.encode_batch_fast([_encodable(text) for text in texts])
        return sum(len(encoding) > self._shape.window for encoding in encodings)

    def foreign(self, texts: Iterable[str]) -> str | None:
        """Return what tells that the encoder does not know the language of the texts, None where nothing does.

        Words of an unknown script have no token at all; those of an unknown language in a known script are spelt in
        pieces of two or three letters.
        """
        words = [" ".join(_LETTERS.findall(_encodable(text))) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(words, add_special_tokens=False)
        tokens = sum(map(len, encodings))
        unknown = self._tokenizer.token_to_id(self._shape.unknown) if self._shape.unknown else None
        counts = [of.ids.count(unknown) for of in encodings] if unknown is not None else []
        share = sum(counts) / max(1, tokens)
        if share > MOST_UNKNOWN:
            return f"{share:.0%} of their words and characters are unknown to it"
        latin = sum(len(_LATIN.sub("", text)) for text in words)
        letters = sum(len(text) - text.count(" ") for text in words)
        # Fewer letters than that say little; other scripts have longer or shorter pieces by nature.
        if latin > _FEW_LETTERS and latin > letters / 2 and letters / tokens < FEWEST_LETTERS:
            return f"it has to spell their words, {letters / tokens:.1f} letters at a time"
        return None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without markers; what was counted lately is remembered."""
        texts = [_encodable(text) for text in texts]
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        known = {key: self._counted.get(key) for key in keys}
        new = {key: text for key, text in zip(keys, texts, strict=True) if known[key] is None}
        for chunk in _chunks(new):
            parted = [blocks(new[key]) for key in chunk]
            encodings = self._tokenizer.encode_batch_fast([of[0] for of in parted], add_special_tokens=False)
            for key, (_, *others), encoding in zip(chunk, parted, encodings, strict=True):
                count = len(encoding)
                for other in others:
                    count += len(self._tokenizer.encode(other, add_special_tokens=False))
                known[key] = count
                self._counted.put(key, count, 0)
        return [known[key] or 0 for key in keys]

    def beginning(self, text: str, *, tokens: int) -> str:
        """Return the text up to the end of so many tokens, all of it if it has no more."""
        # A token has at least one character.
        if len(text) <= tokens:
            return text
        place, left = 0, tokens
        for block in blocks(_encodable(text)):
            spans = spans_of(self._tokenizer.encode(block, add_special_tokens=False))
            if len(spans) > left:
                return text[: place + spans[left - 1][1]] if left else text[:place]
            place, left = place + len(block), left - len(spans)
        return text

    def _compute_texts(self, texts: Sequence[str]) -> list[Vectors]:
        return list(self._computed(texts, count=len(texts))[:, np.newaxis])

    def _compute_passages(self, splitter: PassageSplitter, texts: Sequence[str]) -> list[Vectors]:
        passages = splitter.split(texts)
        vectors = self._computed([passage for of_text in passages for passage in of_text], count=len(texts))
        vectors.flags.writeable = False  # like those from the cache: a caller must not see which it got
        return np.split(vectors, list(accumulate(map(len, passages)))[:-1])

    def _computed(self, pieces: Sequence[str], *, count: int) -> Vectors:
        """Compute the vectors of so many texts, piece by piece, and let others have their turn in between."""
        # What is said twice is computed once: documents share their boilerplate.
        places: dict[str, int] = {}
        where = [places.setdefault(piece, len(places)) for piece in pieces]
        different, parts = list(places), []
        turn = 1 if self._singly else _TURN * cores()
        for start in range(0, len(different), turn):
            with self._my_turn():
                parts.append(self._runtime.encode(different[start : start + turn]))
                self.computed += 0 if start else count
        vectors = parts[0] if len(parts) == 1 else self._stacked(parts)
        return vectors if len(places) == len(pieces) else vectors[where]

    def _remembered(self, kind: str, texts: Sequence[str], compute: _Compute, ahead: _Ahead = ()) -> list[Vectors]:
        """Look the texts up, compute those that are new (each once), keep them, and return all in order."""
        texts = [_encodable(text) for text in texts]
        keys = [self._key(kind, text) for text in texts]
        lent = {key: self._lent.get(key) for key in dict.fromkeys(keys)}
        known = {key: matrix for key, matrix in lent.items() if matrix is not None}
        if self._cache and (others := [key for key in lent if key not in known]):
            known |= self._cache.get(others, dimension=self._shape.dimension)
        self.remembered += len(known)
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if new and not self._computes:
            able = copy.copy(self)
            able._computes = True
            raise UnknownTextError(len(new), partial(able._remembered, kind, list(new.values()), compute, ahead))
        if new and (fetched := self._fetched(new, ahead)):
            known |= fetched
            self.remembered += len(new.keys() & fetched.keys())
            new = {key: text for key, text in new.items() if key not in fetched}
        for chunk in _chunks(new):
            fresh = dict(zip(chunk, compute([new[key] for key in chunk]), strict=True))
            known.update(fresh)
            if self._cache and self._keeps:
                self._cache.put(fresh)
        return [known[key] for key in keys]

    def _fetched(self, new: Mapping[bytes, str], ahead: _Ahead) -> Mapping[bytes, Vectors]:
        """Return what the shared vectors have of new texts; what they have of those ahead is kept with it."""
        if self._cache is None or self._cache.shared is None:
            return {}
        dimension = self._shape.dimension
        keys = dict.fromkeys(self._key(kind, _encodable(text)) for kind, texts in ahead for text in texts)
        later = [key for key in keys if key not in new and self._lent.get(key) is None]
        known = self._cache.get(later, dimension=dimension)
        wanted = [*new, *(key for key in later if key not in known)]
        return self._cache.fetch(wanted, dimension=dimension, keep=self._keeps)

    def _stacked(self, rows: list[Vectors]) -> Vectors:
        return np.concatenate(rows) if rows else np.empty((0, self.dimension), dtype=np.float32)

    def _my_turn(self) -> FairLock:
        if self._process != os.getpid():
            # In the parent another thread may have been at it, and will never end its turn here.
            self._turn, self._process = FairLock(), os.getpid()
        return self._turn

    def _key(self, kind: str, text: str) -> bytes:
        return hashlib.sha256(f"{self.id}\0{self._tokenizer_sum}\0{kind}\0{text}".encode()).digest()


def pair(question: str, passage: str) -> str:
    """Return the text by which a cross-encoder is given a pair: a list of JSON."""
    return json.dumps([question, passage], ensure_ascii=False)


def _encodable(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes: one broken character must not stop a ranking."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _splitter(tokenizer: Tokenizer, room: int, prompt: str, *, passages: bool = False) -> PassageSplitter:
    """Return what cuts texts for a window with so much room, into passages or into as few pieces as can be."""
    room = max(2, room - len(tokenizer.encode(prompt, add_special_tokens=False)))
    if not passages:
        return PassageSplitter(tokenizer, size=room, stride=room - min(_OVERLAP, room // 4), prompt=prompt)
    size = min(PASSAGE_TOKENS, room)
    return PassageSplitter(tokenizer, size=size, stride=size * PASSAGE_STRIDE // PASSAGE_TOKENS or 1, prompt=prompt)


def _mean(vectors: Vectors) -> Vectors:
    mean = vectors.mean(axis=0, keepdims=True)
    unit: Vectors = mean / np.linalg.norm(mean)
    return unit


def _chunks(texts: Mapping[bytes, str]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    chars = 0
    for key, text in texts.items():
        if chunk and (len(chunk) == _CHUNK or chars + len(text) > _CHUNK_CHARS):
            yield chunk
            chunk, chars = [], 0
        chunk.append(key)
        chars += len(text)
    if chunk:
        yield chunk
