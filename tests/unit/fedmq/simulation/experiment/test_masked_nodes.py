"""Training under masked sums in virtual time: the same model to the bit, whether integers are really masked or not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.storage.read_only import ReadOnlyStore
from edge_node.training import masking
from federation.errors import ConfigError
from federation.privacy import terms
from federation.privacy.terms import Quantized
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import ModelVersion
from fedmq.audit.audit import Outcome, audit
from fedmq.simulation.experiment import masked_nodes
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment, train
from fedmq.simulation.experiment.experiment import Result
from fedmq.simulation.experiment.masked_nodes import VirtualMasks
from update_codec.masking import read_masked

MASKED = TrainOptions(task="quadratic-200", nodes=10, rounds=6, helpers=4, settings=("privacy.threshold=3",))

MODES = {
    "synchronous": MASKED,
    "all helpers": replace(MASKED, helpers=2, settings=()),
    "asynchronous": replace(MASKED, buffer=8, per_round=10, strategy="fedbuff", stragglers="spread=1.5", rounds=14),
    "server optimizer": replace(MASKED, strategy="fedadam"),
    "weights and clip": replace(
        MASKED, settings=(*MASKED.settings, "privacy.importance_cap=100", "privacy.clip=0.5", "privacy.levels=3")
    ),
}


def run(options: TrainOptions) -> Result:
    return build_experiment(options).run()


@pytest.mark.parametrize("mode", MODES)
def test_masks_change_nothing_of_the_model(mode: str) -> None:
    real, plain = run(MODES[mode]), run(replace(MODES[mode], masks=False))
    assert (real.digest, real.verdicts) == (plain.digest, plain.verdicts)
    assert real.payload_bytes == plain.payload_bytes
    assert real.verdicts["applied"] >= 8 * len(real.versions) > 0
    assert real.verdicts.get("refused", 0) == 0


def test_helpers_and_their_number_change_nothing_either() -> None:
    assert run(MODES["synchronous"]).digest == run(MODES["all helpers"]).digest


def test_it_learns() -> None:
    losses = [version.metrics["loss"] for version in run(replace(MASKED, rounds=12)).versions]
    assert losses[-1] < losses[1] / 2


def test_what_is_kept_is_masked_and_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(MASKED, keep=tmp_path / "kept"), as_json=True)
    capsys.readouterr()
    with ReadOnlyStore(tmp_path / "kept") as store:
        batch = store.batch(ModelVersion(6))
        assert batch is not None
        assert len(batch.members) == 10
        first = read_masked(store.payload(batch.members[0].update), store.manifest())
        assert len(np.unique(first.lanes())) > 2 * batch.request.terms.levels + 1, "random numbers, not integers"
        assert {row.record.num_examples for row in store.updates()} == {1}
    assert [one.invariant for one in audit(tmp_path / "kept").findings if one.outcome is Outcome.FAIL] == []


def test_rows_are_protected_under_masks_too() -> None:
    """The noise is the nodes', from the system: no two runs are equal, but their ledgers are."""
    private = (
        "privacy.unit=examples",
        "privacy.sampling_rate=0.25",
        "privacy.epsilon=4.0",
        "train.batch_size=10",
        "privacy.noise=2.0",
        "train.learning_rate=0.2",
        "train.max_steps=2",
    )
    options = TrainOptions(task="digits", nodes=8, rounds=1, evaluate_every=0, helpers=2, settings=private)
    real, plain = run(options), run(replace(options, masks=False))
    assert real.privacy is not None
    assert real.privacy == plain.privacy
    assert real.verdicts == plain.verdicts == {"applied": 8}


def test_helpers_add_their_noise_masked_or_not() -> None:
    settings = ("privacy.unit=nodes", "privacy.clip=1.0", "privacy.epsilon=100.0")
    options = replace(MASKED, helpers=2, rounds=3, settings=settings)
    first, second, plain = run(options), run(options), run(replace(options, masks=False))
    assert first.verdicts == second.verdicts == plain.verdicts == {"applied": 30}
    assert len({first.digest, second.digest, plain.digest}) == 3, "another noise in each run"


NOISED = {
    "independent": ("privacy.epsilon=100.0",),
    "correlated": ("privacy.epsilon=300.0", "privacy.bandwidth=3", "privacy.separation=2", "round.nodes_min=20"),
    "adaptive clip": ("privacy.epsilon=100.0", "privacy.adaptive_clip=true"),
}


@pytest.mark.parametrize("mode", NOISED)
def test_from_the_same_secrets_noise_is_the_same_masked_or_not(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real helpers draw their secrets; here they are given, so that two runs can be compared to the bit."""
    monkeypatch.setattr(VirtualMasks, "_secret", lambda _self, helper: str(helper).encode().ljust(32, b"."))
    fleet = {"nodes": 20, "per_round": 10} if mode == "correlated" else {}
    settings = ("privacy.unit=nodes", "privacy.clip=1.0", *NOISED[mode])
    options = replace(MASKED, helpers=2, rounds=4, settings=settings, **fleet)  # type: ignore[arg-type]
    real, plain = run(options), run(replace(options, masks=False))
    assert (real.digest, real.verdicts, real.nodes_privacy) == (plain.digest, plain.verdicts, plain.nodes_privacy)
    assert real.nodes_privacy is not None
    assert real.nodes_privacy["noise_by"] == "helpers"
    monkeypatch.setattr(VirtualMasks, "_secret", lambda _self, helper: str(helper).encode().ljust(32, b"!"))
    assert run(options).digest != real.digest


def test_a_budget_that_is_spent_ends_the_run() -> None:
    settings = ("privacy.unit=nodes", "privacy.clip=1.0", "privacy.epsilon=30.0", "privacy.participations=3")
    result = run(replace(MASKED, helpers=2, rounds=20, settings=settings))
    assert result.stopped_early
    assert len(result.versions) == 3
    assert result.nodes_privacy is not None
    assert result.nodes_privacy["largest_epsilon"] <= 30.0  # type: ignore[operator]


def test_a_robust_rule_chooses_between_groups() -> None:
    """Who is in which group comes of the tickets, and these of the masks: the model is another one in each run."""
    groups = ("privacy.groups=3", "strategy.robust=median", "round.quorum=24")
    options = replace(MASKED, nodes=24, per_round=24, rounds=2, helpers=2, settings=groups)
    assert run(options).verdicts == run(replace(options, masks=False)).verdicts == {"applied": 48}


def test_what_does_not_go_with_masks_is_refused_as_a_coordinator_does() -> None:
    with pytest.raises(ConfigError, match=r"does not go with privacy\.masked"):
        build_experiment(replace(MASKED, strategy="scaffold"))
    with pytest.raises(ConfigError, match="--helpers"):
        build_experiment(replace(MASKED, helpers=99))
    with pytest.raises(ConfigError, match=r"round\.quorum: 8"):
        build_experiment(replace(MASKED, nodes=4))


class Poisoners:
    """Two nodes that keep to masks, tickets and helpers, and not to the levels: each is worth a quarter of a batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bad = ""
        self.sent = 0
        frame, rounded = masking.masked_frame, terms.quantize

        def framed(learnt: Any, announcement: Any, update: Any, manifest: Any, seeds: Any) -> Any:
            self.bad = update if int("".join(filter(str.isdigit, update.partition("-")[2]))) < 2 else ""
            return frame(learnt, announcement, update, manifest, seeds)

        def quantize(wanted: Any, residual: Any, under: PrivacyTerms) -> Quantized:
            honest = rounded(wanted, residual, under)
            if not self.bad:
                return honest
            self.sent += 1
            against = -np.sign(wanted).astype(np.int32) * np.int32(under.members // 4 * under.levels)
            return replace(honest, integers=against)

        monkeypatch.setattr(masked_nodes, "masked_frame", framed)
        monkeypatch.setattr(masking, "quantize", quantize)


def test_the_median_of_groups_stands_bad_nodes_under_masks_and_the_mean_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their sums stay in the range, so nobody can say which node it was; in five groups they spoil two at most."""
    plain = replace(MASKED, nodes=40, per_round=40, rounds=10, helpers=2, settings=("round.quorum=40",))
    groups = replace(plain, settings=(*plain.settings, "privacy.groups=5", "strategy.robust=median"))
    clean = run(groups).versions[-1].metrics["loss"]
    poisoners = Poisoners(monkeypatch)
    mean, median = (run(options).versions[-1].metrics["loss"] for options in (plain, groups))
    assert poisoners.sent == 2 * 2 * 10
    assert median < 5 * clean
    assert mean > 10 * median
