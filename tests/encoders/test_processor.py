from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_loop.config import Settings
from rlhf_loop.encoders import choose, runtime
from rlhf_loop.errors import ConfigError

INTEL = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx512_bf16\n"
OLD = "processor\t: 0\nmodel name\t: Old Core\nflags\t\t: fpu sse2 avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Let the system say that it has the processor that the test names."""
    text: str | None = request.param
    monkeypatch.setattr("sys.platform", "linux")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(runtime, "CPUINFO", tmp_path / "cpuinfo")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [(INTEL, {"int8", "bf16"}), (OLD, set()), (ARM, {"int8"}), ("", set()), (None, set())],
    indirect=["cpuinfo"],
)
@pytest.mark.usefixtures("cpuinfo")
def test_abilities_come_from_the_system(expected: set[str]) -> None:
    """What the processor can do is read from its flags; where nobody says, it can do nothing."""
    assert runtime.abilities() == expected


@pytest.mark.parametrize(
    ("cpuinfo", "expected"), [(INTEL, "int8"), (OLD, "fp32"), (None, "fp32")], indirect=["cpuinfo"]
)
@pytest.mark.usefixtures("cpuinfo")
def test_the_precision_follows_the_processor(expected: str) -> None:
    """Without a setting, 8 bits are used where the processor multiplies them in one step."""
    choice = choose(Settings())
    assert (choice.runtime, choice.precision) == ("onnxruntime", expected)


@pytest.mark.parametrize("cpuinfo", [INTEL], indirect=True)
@pytest.mark.usefixtures("cpuinfo")
def test_a_setting_overrides_the_processor() -> None:
    """Whoever names a precision gets it, and sentence-transformers has only one."""
    assert choose(Settings(encoder_precision="fp32")).precision == "fp32"
    assert choose(Settings(encoder_runtime="sentence-transformers")).precision == "fp32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(encoder_runtime="tensorflow"), "Unknown RLHF_ENCODER_RUNTIME='tensorflow'. Choose onnxruntime or"),
        (Settings(encoder_precision="int4"), "RLHF_ENCODER_PRECISION='int4' is not one of onnxruntime. Choose auto or"),
        (
            Settings(encoder_runtime="sentence-transformers", encoder_precision="int8"),
            "RLHF_ENCODER_PRECISION='int8' is not one of sentence-transformers. Choose auto or fp32",
        ),
    ],
)
def test_what_is_not_there_is_refused(settings: Settings, message: str) -> None:
    """An unknown runtime, or a precision that it does not have, is an error that says what there is."""
    with pytest.raises(ConfigError, match=message):
        choose(settings)


@pytest.mark.parametrize(("cpuinfo", "expected"), [(INTEL, "Some Xeon")], indirect=["cpuinfo"])
@pytest.mark.usefixtures("cpuinfo")
def test_the_processor_has_a_name(expected: str) -> None:
    """Its own name, as the system gives it."""
    assert runtime.processor_name() == expected
    assert runtime.cores() >= 1
