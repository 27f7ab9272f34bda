"""The reward model and its file: written whole or not at all, and never unpickled before its sha256 is verified.

A pickle can run any code, so the sum comes first: it stands beside the file, in the form that `sha256sum -c` reads. And
what is then read is plain values only, few and small enough to be a model; anything that would have to be imported or
called, or could not be served, is refused. A new model replaces an old one in three steps, each atomic: the sums of
both, the model, the sum of the new one. At each instant the file that is there has its sum beside it. A lock keeps two
trainings from doing this at the same time.

The tuned layers of recipe `transformer` stand in a file of their own in the same folder, which is named by its sha256
and written first. The model names it with its sum and size, so nothing else is ever read in its place.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import pickletools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from rlhf_loop.domain import Question
from rlhf_loop.encoders import ENGLISH_ENCODER, TextEncoder
from rlhf_loop.encoders.runtime import cross_of, same_model
from rlhf_loop.encoders.tuned import MOST_BYTES, TunedLayers
from rlhf_loop.errors import ConfigError, ModelFileError
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.recipes import RECIPES, JointRecipe, Recipe, TransformerRecipe, recipe_named
from rlhf_loop.utils.arrays import Floats
from rlhf_loop.utils.files import write_whole
from rlhf_loop.utils.languages import ENGLISH, language_named
from rlhf_loop.utils.text import clause
from rlhf_loop.utils.translation import Message

FORMAT = "rlhf-loop reward model"
FORMAT_VERSION = 1
#: Permissions of the files: a service under another user must be able to read the model.
READABLE = 0o644
#: What every version's name looks like: a part of file names, addresses and commands.
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)
_SUM = re.compile(r"[0-9a-f]{64}", re.ASCII)
WEIGHTS_ENDING = ".safetensors"
#: A model has some twenty numbers and a card; the largest ones have some 30 KB.
_MOST_BYTES = 1_000_000
#: What a pickle of numbers, texts, lists and objects is made of. A tuple or a set is hashed anew each time that it is a
#: key: one that holds the same one twice, some forty deep, would not be read to its end in a lifetime.
_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    """.split()  # noqa: SIM905
)
#: Values in it, and how deep they lie in each other; a list that is in it twice counts twice.
_MOST_VALUES, _DEEPEST = 100_000, 20
#: Numbers beyond are none of a fit's, and their products overflow.
_LARGEST = 1e30
_RETRAIN = Message("Train a new one: rlhf-loop train.")
#: How long a training waits for another one that is writing its model at this moment.
_LOCK_TIMEOUT_S = 30
#: How often a file is read that is another one each time.
_LOOKS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """A scorer with what it belongs to: the recipe of its features, and the encoder, the only one it works with.

    Where the recipe has the score of a cross-encoder, its id stands behind that of the encoder (`runtime.with_cross`).

    `language` is that of the texts that it learned from. `card` says when, on what and how well it was trained; nothing
    is computed from it. `tuned` are the layers that recipe `transformer` scores by. `pointwise` scores each answer
    whatever the other candidates are, None in a model of earlier versions.
    """

    recipe: str
    recipe_version: int
    encoder: str
    scorer: Scorer
    language: str = ENGLISH
    card: Mapping[str, Any] = field(default_factory=dict)
    tuned: TunedLayers | None = None
    pointwise: Scorer | None = None

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        *,
        recipe: str,
        encoder: str,
        language: str = ENGLISH,
        tuned: TunedLayers | None = None,
        pointwise: Scorer | None = None,
    ) -> RewardModel:
        """Make a model of a recipe's scorer."""
        return cls(
            recipe=recipe,
            recipe_version=recipe_named(recipe).version,
            encoder=encoder,
            scorer=scorer,
            language=language,
            tuned=tuned,
            pointwise=pointwise,
        )

    @property
    def feature_recipe(self) -> Recipe:
        """The recipe that makes its features."""
        return recipe_named(self.recipe, layers=self.tuned, cross=bool(self.cross_encoder))

    @property
    def cross_encoder(self) -> str:
        """The name of the cross-encoder that it scores by, empty where it needs none."""
        return cross_of(self.encoder)

    @property
    def is_pointwise(self) -> bool:
        """True if it has scores that do not depend on the other candidates."""
        return self.pointwise is not None or self.recipe == JointRecipe.name

    def score(self, questions: Sequence[Question], encoder: TextEncoder, *, pointwise: bool = False) -> list[Floats]:
        """Return for each question the scores of its candidates in order: in [0, 1], that of a rating >= 4.

        With `pointwise` a score does not depend on the other candidates, if the model has such scores.
        """
        scorer = (self.pointwise if pointwise else None) or self.scorer
        # Each distinct text once: equal answers then have equal scores to the last bit, and are no rivals of their own.
        distinct = [Question(q.prompt, tuple(dict.fromkeys(q.responses))) for q in questions]
        # In the language that it learned in, whatever the settings say now: other stems are other features.
        encoder = encoder.reading(language_named(self.language))
        probability = iter(scorer.probability(self.feature_recipe.features(distinct, encoder)).tolist())
        scores = [dict(zip(question.responses, probability, strict=False)) for question in distinct]
        return [
            np.array([of_text[response] for response in question.responses])
            for question, of_text in zip(questions, scores, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with the sha256 of the file it came from."""

    model: RewardModel
    sha256: str
    name: str | None = None

    @property
    def version(self) -> str:
        """A short name for exactly this model."""
        return self.name or version_name(self.model.recipe, self.sha256)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as it stands in its files: `sha256` is the sum of `content`, `weights` the file beside it, if any."""

    content: bytes
    sha256: str
    weights: bytes | None = None

    @property
    def weights_sha256(self) -> str | None:
        """The sum of the weights, which is their name."""
        return hashlib.sha256(self.weights).hexdigest() if self.weights is not None else None


def version_name(recipe: str, sha256: str) -> str:
    """Return the short name of the model in the file with that sum."""
    return f"{recipe}-{sha256[:12]}"


def is_version_name(name: object) -> bool:
    """Tell whether it can be the name of a version, or its beginning."""
    return isinstance(name, str) and _VERSION.fullmatch(name) is not None


def save(model: RewardModel, path: Path) -> str:
    """Write the model to `path` and its sum to `path`.sha256; return the sum.

    Raises:
        ModelFileError: the files cannot be written; the old ones are still there.
    """
    return put(serialised(model), path)


def put(stored: StoredModel, path: Path) -> str:
    """Write a model to `path`, its sum and its weights beside it; return the sum.

    Raises:
        ModelFileError: the files cannot be written; the old ones are still there.
    """
    new = stored.sha256
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT_S):
            if stored.weights is not None and stored.weights_sha256 is not None:
                # Anew even where they are: their time says that they are wanted (`versions.tidy`).
                write_whole(weights_file(path, stored.weights_sha256), stored.weights, mode=READABLE)
            write_whole(sum_file(path), _sum_lines(path, [*_expected(path), new]), mode=READABLE)
            write_whole(path, stored.content, mode=READABLE)
            write_whole(sum_file(path), _sum_lines(path, [new]), mode=READABLE)
    except OSError as error:
        raise ModelFileError(
            f"Cannot write the reward model to {path}: {error.strerror or error}. Make space there, or set "
            "RLHF_MODEL_PATH to another place."
        ) from error
    return new


def load(path: Path, *, encoder: str) -> LoadedModel:
    """Read the model at `path`, after its sum is verified, for use with the encoder of that id, in any precision.

    Raises:
        ModelFileError: no file, no sum, another sum, not a reward model, another encoder, or a recipe or format that
            this version of the package does not know.
    """
    stored = verified(path)
    values = _unpickled(path, stored.content)
    try:
        return LoadedModel(_checked(path, values, encoder, stored.weights), stored.sha256)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelFileError(
            f"{path} is not a whole reward model: {type(error).__name__}: {clause(error)}. {_RETRAIN}"
        ) from error


def verified(path: Path, *, weights: bool = True) -> StoredModel:
    """Return what the file holds and its weights, if they are wanted; their sums are those beside it and in it.

    Raises:
        ModelFileError: no file, no sum, or another sum.
    """
    content = _read(path)
    for _ in range(_LOOKS):
        found = hashlib.sha256(content).hexdigest()
        try:
            _verify(path, found)
            break
        except ModelFileError:
            # The sum was read after the file: a training may have replaced both in between, and another one again.
            if (newer := _read(path)) == content:
                raise
            content = newer
    else:
        raise ModelFileError(f"{path} is replaced over and over, faster than it can be read. Try again.")
    named = _named_weights(path, content) if weights else None
    return StoredModel(content, found, _weights(path, *named) if named else None)


def sum_file(path: Path) -> Path:
    """Return where the sum of `path` stands."""
    return path.with_name(path.name + ".sha256")


def weights_file(path: Path, sha256: str) -> Path:
    """Return where the weights of that sum stand beside the model at `path`."""
    return path.with_name(f"{sha256}{WEIGHTS_ENDING}")


def weights_of(path: Path) -> str | None:
    """Return the sum of the weights that the model at `path` names, None where it names none or cannot be read."""
    try:
        named = _named_weights(path, _read(path))
    except ModelFileError:
        return None
    return named[0] if named else None


def serialised(model: RewardModel) -> StoredModel:
    """Return what the model's files hold.

    Raises:
        ModelFileError: its card has anything but plain values in it.
    """
    weights = model.tuned.to_bytes() if model.tuned else None
    sha256 = hashlib.sha256(weights).hexdigest() if weights is not None else ""
    # Plain values all through, no object and no array: the file outlives the classes, and reading it runs no code.
    values = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "recipe": model.recipe,
        "recipe_version": model.recipe_version,
        "encoder": model.encoder,
        # Only where it is another one: so a model of English texts is a file that any version reads.
        **({} if model.language == ENGLISH else {"language": model.language}),
        **({} if weights is None else {"weights": {"sha256": sha256, "bytes": len(weights)}}),
        "card": dict(model.card),
        **_plain(model.scorer),
        # Earlier versions look for what they know and pass over this.
        **({} if model.pointwise is None else {"pointwise": _plain(model.pointwise)}),
    }
    # Imported here: only a training writes, and it would take 8 MB of a process that only serves.
    import joblib

    buffer = io.BytesIO()
    joblib.dump(values, buffer)
    content = buffer.getvalue()
    _unpickled(Path("The new model"), content)  # else it would be written, and never be read again
    return StoredModel(content, hashlib.sha256(content).hexdigest(), weights)


def _plain(scorer: Scorer) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in asdict(scorer).items()}


def _named_weights(path: Path, content: bytes) -> tuple[str, int] | None:
    """Return the sum and the size of the weights that a model names, None where it names none."""
    try:
        named = _unpickled(path, content).get("weights")
    except ModelFileError:
        return None  # whoever loads it says so
    if named is None:
        return None
    sha256, size = (named.get("sha256"), named.get("bytes")) if isinstance(named, Mapping) else (None, None)
    if not (isinstance(sha256, str) and _SUM.fullmatch(sha256) and type(size) is int and 0 < size <= MOST_BYTES):
        raise ModelFileError(f"{path} names weights that are not a valid file of such: {str(named)[:200]}. {_RETRAIN}")
    return sha256, size


def _weights(path: Path, sha256: str, size: int) -> bytes:
    """Return the weights of that sum and size."""
    file = weights_file(path, sha256)
    restore = (
        "Restore it from a copy, or promote another version (rlhf-loop models promote); those of old versions are "
        f"deleted (RLHF_KEEP_WEIGHTS). {_RETRAIN}"
    )
    try:
        with file.open("rb") as opened:
            content = opened.read(size + 1)
    except FileNotFoundError:
        raise ModelFileError(f"{path} needs its tuned layers, and there is no {file}. {restore}") from None
    except OSError as error:
        raise ModelFileError(
            f"{path} needs its tuned layers, and {file} cannot be read: {error.strerror or error}. {restore}"
        ) from error
    if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
        raise ModelFileError(
            f"The tuned layers in {file} were altered or damaged: these are not the {size:,} bytes whose sha256 is "
            f"the file's name. {restore}"
        )
    return content


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        none = Message("There is no reward model at {path}.", path=str(path))
        raise ModelFileError(Message.joined(none, _RETRAIN)) from None
    except OSError as error:
        raise ModelFileError(
            f"Cannot read the reward model {path}: {error.strerror or error}. Name a file that this user may read "
            "(RLHF_MODEL_PATH)."
        ) from error
    if len(content) > _MOST_BYTES:
        raise ModelFileError(
            f"{path} is larger than {_MOST_BYTES:,} bytes, which no reward model is. Name the right file "
            f"(RLHF_MODEL_PATH). {_RETRAIN}"
        )
    return content


def _verify(path: Path, found: str) -> None:
    try:
        expected = _expected(path)
    except OSError as error:
        raise ModelFileError(f"Cannot read the checksum {sum_file(path)}: {error.strerror or error}.") from error
    if not expected:
        raise ModelFileError(
            Message(
                "{path} has no checksum beside it ({name}), so it is not opened: a model file from elsewhere can run "
                "any code. Restore the checksum that came with it. {else_}",
                path=str(path),
                name=sum_file(path).name,
                else_=_RETRAIN,
            )
        )
    if found not in expected:
        raise ModelFileError(
            Message(
                "{path} was altered or damaged: its sha256 is {found}, {name} says {expected}. Restore the file from a "
                "copy. {else_}",
                path=str(path),
                found=found,
                name=sum_file(path).name,
                expected=" / ".join(expected),
                else_=_RETRAIN,
            )
        )


def _expected(path: Path) -> list[str]:
    """Return the sums that stand beside the file: one, or two while it is being replaced."""
    if not sum_file(path).exists():
        return []
    with sum_file(path).open(encoding="ascii", errors="replace") as file:
        return re.findall(r"^[0-9a-f]{64}\b", file.read(_MOST_BYTES).lower(), re.MULTILINE)


class _PlainUnpickler(pickle.Unpickler):
    """Reads what a model file holds, and nothing that would have to be imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unpickled(path: Path, content: bytes) -> Mapping[str, Any]:
    try:
        # A few bytes may ask for a place in the memo that fills the memory; a whole pickle numbers them as it goes.
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name not in _OPCODES:
                raise pickle.UnpicklingError(f"it asks for {opcode.name}, and holds more than numbers, texts and lists")
            if isinstance(argument, int) and argument.bit_length() > 63:
                raise pickle.UnpicklingError(f"it holds a whole number of {argument.bit_length()} bits")
            if opcode.name.endswith("PUT") and (argument or 0) > count:
                raise pickle.UnpicklingError(f"it asks for place {argument:,}")
        values = _PlainUnpickler(io.BytesIO(content)).load()
        _check_plain(values)
    except Exception as error:
        # Any exception: bytes that are not a pickle fail in many ways.
        raise ModelFileError(
            f"{path} is not a reward model of rlhf-loop: {type(error).__name__}: {clause(error)}. {_RETRAIN}"
        ) from error
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a reward model of rlhf-loop but a {type(values).__name__}. {_RETRAIN}")
    return values


def _check_plain(values: object) -> None:
    """Refuse what JSON could not hold, and more than a model holds: a list may be in it many times over.

    Raises:
        ValueError: it is such a thing.
    """
    left, count = [(values, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1 + (len(value) // 100 if isinstance(value, str) else 0)
        inner: Iterable[object] = ()
        if isinstance(value, Mapping):
            inner = (each for both in value.items() for each in both)
        elif isinstance(value, list):
            inner = value
        elif value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"it holds a {type(value).__name__}")
        left += ((each, depth + 1) for each in inner)
        if depth > _DEEPEST or count + len(left) > _MOST_VALUES:
            raise ValueError("it holds more, or deeper, than a model does")


def _checked(path: Path, values: Mapping[str, Any], encoder: str, weights: bytes | None) -> RewardModel:
    if values["format_version"] != FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {values['format_version']}; this rlhf-loop reads {FORMAT_VERSION}. "
            f"Install the version that wrote it. {_RETRAIN}"
        )
    cross = cross_of(str(values["encoder"]))
    recipes = {name: recipe_named(name, cross=bool(cross)) for name in (*RECIPES, TransformerRecipe.name)}
    recipe = recipes.get(str(values["recipe"]))
    version = values["recipe_version"]
    if recipe is None or type(version) is not int or version not in (recipe.version, *recipe.older):
        known = ", ".join(f"{name} {known.version}" for name, known in recipes.items())
        raise ModelFileError(
            f"{path} was trained by recipe {values['recipe']} {values['recipe_version']}; this rlhf-loop "
            f"knows {known}. {_RETRAIN}"
        )
    if not same_model(str(values["encoder"]), encoder):
        raise ModelFileError(
            f"{path} was trained with the encoder {values['encoder']}, but {encoder} is in use; their vectors do not "
            f"fit together. Set the encoder back (RLHF_ENCODER={str(values['encoder']).partition('/')[0]}). {_RETRAIN}"
        )
    if cross and cross != cross_of(encoder):
        raise ModelFileError(
            f"{path} was trained with the cross-encoder {cross}, and {cross_of(encoder) or 'none'} is in use. Set "
            "RLHF_CROSS_ENCODER to its folder or its id on the model hub, as it was then, or promote another version "
            f"(rlhf-loop models promote). {_RETRAIN}"
        )
    columns, pointwise = _columns(recipe, values), values.get("pointwise")
    return RewardModel(
        recipe=values["recipe"],
        recipe_version=values["recipe_version"],
        encoder=values["encoder"],
        language=_checked_language(path, values),
        scorer=_checked_scorer(path, values, columns),
        pointwise=None if pointwise is None else _checked_scorer(path, pointwise, columns),
        card=dict(values["card"]),
        tuned=_checked_layers(path, recipe, encoder, weights),
    )


def _checked_layers(path: Path, recipe: Recipe, encoder: str, weights: bytes | None) -> TunedLayers | None:
    if (recipe.name == TransformerRecipe.name) != (weights is not None):
        raise ModelFileError(
            f"{path} is of recipe {recipe.name} and names {'no ' if weights is None else ''}tuned layers. {_RETRAIN}"
        )
    layers = TunedLayers.from_bytes(weights) if weights is not None else None
    if layers is not None and not same_model(layers.encoder, encoder):
        raise ModelFileError(
            f"The tuned layers of {path} are those of the encoder {layers.encoder}, and not of {encoder}. {_RETRAIN}"
        )
    return layers


def _checked_language(path: Path, values: Mapping[str, Any]) -> str:
    try:
        return language_named(str(values.get("language", ENGLISH))).code
    except ConfigError:
        raise ModelFileError(
            f"{path} was trained on texts in the language {values['language']!r}, which this rlhf-loop does not know. "
            f"Install the version that wrote it. {_RETRAIN}"
        ) from None


def _columns(recipe: Recipe, values: Mapping[str, Any]) -> int:
    """Return how many columns a recipe has; of `joint` those of a vector of the model's encoder."""
    if recipe.name == JointRecipe.name and not same_model(str(values["encoder"]), ENGLISH_ENCODER):
        return len(values["coef"])
    return len(recipe.feature_names())


def _checked_scorer(path: Path, values: Mapping[str, Any], size: int) -> Scorer:
    columns = {name: _numbers(name, values[name]) for name in ("coef", "low", "high")}
    if any(column.shape != (size,) for column in columns.values()) or not np.isfinite(columns["coef"]).all():
        shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise ModelFileError(f"{path} holds unusable coefficients, shapes {shapes}; expected {size}. {_RETRAIN}")
    if not (columns["low"] <= columns["high"]).all():
        raise ModelFileError(f"{path} holds ranges of features whose low end is above the high one. {_RETRAIN}")
    numbers = {name: float(_numbers(name, [values[name]])[0]) for name in ("intercept", "slope", "offset")}
    if not all(map(math.isfinite, numbers.values())):
        raise ModelFileError(f"{path} holds numbers that are not finite: {numbers}. {_RETRAIN}")
    # A fit's range of a feature may have no end, as a feature itself has.
    every = np.concatenate([*columns.values(), np.array([*numbers.values()])])
    if np.abs(every[np.isfinite(every)]).max() > _LARGEST:
        raise ModelFileError(f"{path} holds numbers beyond {_LARGEST:g}, whose products overflow. {_RETRAIN}")
    if numbers["slope"] <= 0:
        raise ModelFileError(
            f"{path} has the slope {numbers['slope']:g}, which would turn the ranking round. {_RETRAIN}"
        )
    return Scorer(
        coef=columns["coef"],
        low=columns["low"],
        high=columns["high"],
        intercept=numbers["intercept"],
        slope=numbers["slope"],
        offset=numbers["offset"],
    )


def _numbers(name: str, values: object) -> Floats:
    """Return a list of numbers as an array.

    Raises:
        TypeError: it is anything but that.
    """
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise TypeError(f"{name} is not a list of numbers")
    return np.array(values, dtype=np.float64)


def _sum_lines(path: Path, sums: list[str]) -> bytes:
    return "".join(f"{value}  {path.name}\n" for value in dict.fromkeys(sums)).encode("utf-8", "surrogateescape")
