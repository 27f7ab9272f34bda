"""Encoders of the model hub, from a server on loopback that answers what the hub's own client asks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import tiny_encoders
from huggingface_hub import constants
from loopback import Answer, SeenRequest, Site, json_page, page, site
from tiny_encoders import put

from rlhf_loop.config import Settings
from rlhf_loop.encoders import load_encoder, weights_folder
from rlhf_loop.encoders.cross_encoder import find_cross_encoder, load_cross_encoder
from rlhf_loop.encoders.folder import load_runtime, read_folder
from rlhf_loop.encoders.text_encoder import pair
from rlhf_loop.errors import EncoderError

COMMIT = "c0ffee" * 6 + "abcd"
NAME = "acme/tiny"


class Hub:
    """A hub with the model of one folder; `refused` are files that it does not give, `gone` is an error for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: set[str] = set()
        self.gone = ""
        self.given: list[str] = []

    def __call__(self, request: SeenRequest) -> Answer:
        """Answer as the hub does: the revision's commit, its files, and each of them."""
        path = unquote(request.path)
        if self.gone:
            return page("{}", status=403, headers={"X-Error-Code": self.gone})
        if path == f"/api/models/{NAME}/revision/main":
            return json_page({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self._files()]})
        if path == f"/api/models/{NAME}/tree/{COMMIT}":
            return json_page([self._entry(name) for name in self._files()])
        name = path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if name not in self._files():
            return page(status=404)
        if name in self.refused:
            return page(status=403)
        body = (self.folder / name).read_bytes()
        if request.method == "GET":
            self.given.append(name)
        headers = {"ETag": f'"{_sum(body)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}
        return page(b"" if request.method == "HEAD" else body, headers=headers)

    def _files(self) -> list[str]:
        return sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())

    def _entry(self, name: str) -> dict[str, object]:
        body = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(body), "oid": _sum(body)}


def _sum(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    tiny_encoders.write(tmp_path / "on-the-hub", pooling="cls_token")
    return Hub(tmp_path / "on-the-hub")


@pytest.fixture
def served(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The hub at the address that its client asks, and an empty cache; with `close` there is no hub."""
    with site(hub) as there:
        address = there.url.removesuffix("/api")
        # As HF_ENDPOINT and HF_HUB_CACHE, which are read at the import.
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache-of-the-hub"))
        yield there


def test_a_cross_encoder_of_the_hub_is_fetched_once(hub: Hub, served: Site, tmp_path: Path) -> None:
    """Its name is that of the model and not of a commit; from then on nobody is asked, and it needs no permission."""
    for file in hub.folder.rglob("*.json"):
        file.unlink()
    tiny_encoders.write_cross(hub.folder)
    with pytest.raises(EncoderError, match=f"RLHF_CROSS_ENCODER='{NAME}' is not a folder, and not here"):
        find_cross_encoder(NAME)
    found = load_cross_encoder(NAME, tmp_path / "cache", threads=1)
    expected = load_cross_encoder(str(hub.folder), tmp_path / "cache", threads=1)
    text = pair("the cat", "a dog sat")
    np.testing.assert_array_equal(found.encode([text]), expected.encode([text]))
    assert found.id.startswith("tiny-")
    asked = len(served.seen)
    assert load_cross_encoder(NAME, tmp_path / "cache", threads=1).id == found.id
    assert f"{find_cross_encoder(NAME).name}/fp32" == found.id
    assert len(served.seen) == asked


def fetched(*, download: bool = True) -> Path:
    return weights_folder(Settings(encoder=NAME), download=download)


def test_an_encoder_of_the_hub_is_fetched_once(hub: Hub, served: Site, tmp_path: Path) -> None:
    """It makes the vectors that its folder makes, with its own pooling; from then on nobody is asked."""
    settings = Settings(encoder=NAME, cache_dir=tmp_path / "cache", encoder_threads=1)
    vectors = load_encoder(settings).encode(["the cat sat on a mat"])
    expected = load_runtime(read_folder(hub.folder), tmp_path / "graphs", threads=1).encode(["the cat sat on a mat"])
    np.testing.assert_array_equal(vectors, expected)
    asked = len(served.seen)
    assert load_encoder(settings).encode(["a dog"]).shape == load_encoder(settings, download=False).encode(["a"]).shape
    assert len(served.seen) == asked


def _graph(folder: Path) -> None:
    """A graph beside weights of a kind that is not known, as a large model has it, and a smaller one."""
    put(folder / "config.json", {"model_type": "t5", "hidden_size": 8})
    (folder / "onnx").mkdir()
    for name in ("model.onnx", "model.onnx_data", "model_quantized.onnx"):
        (folder / "onnx" / name).write_bytes(name.encode())


def _dense(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    put(folder / "modules.json", [*modules, {"type": "sentence_transformers.models.Dense", "path": "3_Dense"}])
    (folder / "3_Dense").mkdir()
    put(folder / "3_Dense" / "config.json", {})
    (folder / "3_Dense" / "model.safetensors").write_bytes(b"tensors")


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        (lambda _: None, {"model.safetensors"}),
        (_graph, {"onnx/model.onnx", "onnx/model.onnx_data"}),
        (_dense, {"model.safetensors", "3_Dense/model.safetensors"}),
    ],
    ids=["weights", "a graph", "a layer behind"],
)
def test_only_what_is_needed_is_fetched(
    change: Callable[[Path], None], weights: set[str], hub: Hub, served: Site
) -> None:
    """Descriptions, and one kind of weights; no other precision, and no weights that nothing is made of."""
    change(hub.folder)
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickled")
    fetched()
    assert {name for name in hub.given if not name.endswith(".json")} == weights
    assert len(hub.given) == len(set(hub.given))


@pytest.mark.parametrize("missing", ["model.safetensors", "1_Pooling/config.json"])
def test_a_download_that_was_broken_off_goes_on(missing: str, hub: Hub, served: Site) -> None:
    """Half an encoder is none: it is said so, and the next time what is missing is fetched."""
    hub.refused = {missing}
    with pytest.raises(EncoderError, match=r"a model of the hub \(HfHubHTTPError\)\. Fetch it where"):
        fetched()
    with pytest.raises(EncoderError, match=r"Fetch it .*: rlhf-loop train does, or hf download acme/tiny"):
        fetched(download=False)
    whole = set(hub.given) - hub.refused
    assert whole
    hub.refused, hub.given = set(), []
    assert read_folder(fetched()).pooling == ("cls",)
    assert missing in hub.given
    assert not whole & set(hub.given)


def test_what_another_program_left_out_is_fetched(hub: Hub, served: Site) -> None:
    """Without the list of modules tokens would be pooled in another way; if the hub is away, what is there serves."""
    folder = Path(constants.HF_HUB_CACHE) / "models--acme--tiny" / "snapshots" / COMMIT
    shutil.copytree(hub.folder, folder, ignore=shutil.ignore_patterns("modules.json", "1_Pooling"))
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    hub.gone = "GatedRepo"
    assert fetched() == fetched(download=False) == folder
    assert read_folder(folder).pooling == ("mean",)
    hub.gone = ""
    assert read_folder(fetched()).pooling == ("cls",)


def _lacks(name: str) -> Callable[[Hub, Site], None]:
    return lambda hub, _: (hub.folder / name).unlink()


def _gone(error: str) -> Callable[[Hub, Site], None]:
    return lambda hub, _: setattr(hub, "gone", error)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _, there: there.close(), r"\(ConnectError\)\. Fetch it where the hub can be reached"),
        (_gone("RepoNotFound"), r"RepositoryNotFoundError: the hub has none, or not for everybody\)\. Check the name"),
        (_gone("GatedRepo"), r"GatedRepoError: .* accept its terms on the hub, and set HF_TOKEN"),
        (_lacks("tokenizer.json"), r"has no tokenizer\.json"),
        (_lacks("model.safetensors"), r"of the kind 'bert', has on the model hub no model\.onnx, and no model\.safe"),
        (
            lambda hub, _: put(hub.folder / "config.json", {"model_type": "t5"}),
            "of the kind 't5', has on the model hub",
        ),
        (
            lambda hub, _: put(hub.folder / "1_Pooling" / "config.json", {"pooling_mode": "attention"}),
            "pools its tokens by attention",
        ),
    ],
)
def test_what_cannot_be_had_is_said(spoil: Callable[[Hub, Site], None], message: str, hub: Hub, served: Site) -> None:
    """Whatever is wrong, with the hub, the name or the model: what it is and what to do, and no weights are fetched."""
    spoil(hub, served)
    with pytest.raises(EncoderError, match=message):
        fetched()
    assert "model.safetensors" not in hub.given
