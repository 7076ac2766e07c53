"""Small models take rates that leave their training stable; others keep theirs to the letter."""

import pytest

from coordinator.engine.settings import EngineSettings
from coordinator.strategies.codecs import codec_for, with_frame_min
from coordinator.strategies.lag_compensation import LagCompensation
from coordinator.strategies.strategy import Averaging
from update_codec import CodecSpec


@pytest.mark.parametrize(
    ("codec", "parameters", "suited"),
    [
        ("edge", 50, "deadzone(bpp=12,feedback=1)"),
        ("edge", 512, "deadzone(bpp=2,feedback=1)"),
        ("edge", 2_926, "edge"),
        ("edge", 109_386, "edge"),
        ("extreme", 2_048, "deadzone(bpp=0.5,feedback=1)"),
        ("compact", 1_024, "cosine(bpp=1,feedback=1)"),
        ("balanced", 50, "balanced"),
        ("link", 50, "link"),
        ("lossless", 50, "lossless"),
        ("deadzone(bpp=0.35,feedback=1)", 50, "deadzone(bpp=0.35,feedback=1)"),
        ("deadzone(step=2,feedback=1)", 50, "deadzone(step=2,feedback=1)"),
        ("edge", 0, "edge"),
    ],
)
def test_a_named_codec_has_at_least_128_bytes_for_a_frame(codec: str, parameters: int, suited: str) -> None:
    assert codec_for(codec, parameters) == suited


def test_a_node_that_agrees_to_the_name_alone_is_asked_by_it() -> None:
    settings = EngineSettings(task="quadratic", codec_up="edge", codec_fallbacks=("balanced",)).for_model(512)
    assert settings.codec_up == "deadzone(bpp=2,feedback=1)"
    assert settings.codec_fallbacks == ("balanced", "edge")
    large = EngineSettings(task="quadratic", codec_up="edge", codec_fallbacks=("balanced",))
    assert large.for_model(100_000) is large


def test_the_lag_follows_the_rate_of_a_small_model_unless_somebody_chose_it() -> None:
    edge = CodecSpec.parse("edge")
    lag = LagCompensation(strategy=Averaging(), versions=4.0, up=edge, down=edge)
    assert lag.for_model(512).versions == pytest.approx(0.7)
    assert lag.for_model(100_000) is lag
    chosen = LagCompensation(strategy=Averaging(), versions=4.0)
    assert chosen.for_model(512) is chosen
    assert with_frame_min(with_frame_min(edge, 512), 512) == CodecSpec.parse("deadzone(bpp=2,feedback=1)")
