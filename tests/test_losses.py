"""Losses against hand-computed numbers and torch's own, and phases as a pure function of the step."""

import math

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from anomaly_seg.losses import (
    Phase,
    binary_cross_entropy,
    check_phases,
    deep_supervision,
    lowest_cross_entropy,
    phase_at,
)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize("positive_weight", [1.0, 4.0])
def test_cross_entropy_by_hand(positive_weight: float) -> None:
    logit, target = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.25])
    # -w y log sigmoid(x) - (1 - y) log(1 - sigmoid(x)), with -log sigmoid(x) = softplus(-x)
    w = positive_weight
    terms = [w * softplus(-2.0), softplus(-1.0), 0.25 * w * softplus(-0.5) + 0.75 * softplus(0.5)]
    assert binary_cross_entropy(logit, target, w).item() == pytest.approx(sum(terms) / 3)


@pytest.mark.parametrize("positive_weight", [1.0, 3.0])
@pytest.mark.parametrize("target", [[0.0, 0.0, 0.0, 1.0], [0.1, 0.4, 0.0, 0.9]])
def test_the_lowest_cross_entropy_is_that_of_the_best_constant_logit(
    target: list[float], positive_weight: float
) -> None:
    values = torch.tensor(target)

    def loss(logit: float) -> float:
        return binary_cross_entropy(torch.full_like(values, logit), values, positive_weight).item()

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded").fun
    assert lowest_cross_entropy(values.mean(), positive_weight).item() == pytest.approx(best, rel=1e-5)
    # Each target alone: of 0 and 1 nothing is left, of the others what a logit of their own leaves.
    for value, lowest in zip(target, lowest_cross_entropy(values, positive_weight).tolist(), strict=True):
        if value in (0, 1):
            assert lowest == 0
        else:
            p = positive_weight * value / (positive_weight * value + 1 - value)
            own = -positive_weight * value * math.log(p) - (1 - value) * math.log(1 - p)
            assert lowest == pytest.approx(own)


def test_cross_entropy_is_the_one_on_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(2, 1, 5, 7, generator=generator)
    target = (torch.rand(2, 1, 5, 7, generator=generator) > 0.5).float()
    torch.testing.assert_close(binary_cross_entropy(logit, target), nnf.binary_cross_entropy(logit.sigmoid(), target))


@pytest.mark.parametrize("x", [-200.0, 200.0])
def test_cross_entropy_is_finite_at_any_logit(x: float) -> None:
    assert binary_cross_entropy(torch.tensor([x]), torch.tensor([float(x < 0)])).item() == pytest.approx(200)


def test_half_precision_logits_are_judged_in_float32() -> None:
    logit = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    loss = binary_cross_entropy(logit, torch.tensor([1.0, 0.0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((softplus(-1.5) + softplus(-2.25)) / 2)


def test_gradient_by_hand() -> None:
    logit, target = torch.tensor([0.0, 1.0, -2.0, 3.0], requires_grad=True), torch.tensor([1.0, 0.0, 0.0, 1.0])
    binary_cross_entropy(logit, target, 2.0).backward()
    # d/dx = (1 - y) sigmoid(x) - w y sigmoid(-x), over the 4 pixels of the mean
    sigmoid = [1 / (1 + math.exp(-x)) for x in logit.tolist()]
    expected = [-2 * (1 - sigmoid[0]) / 4, sigmoid[1] / 4, sigmoid[2] / 4, -2 * (1 - sigmoid[3]) / 4]
    assert logit.grad.tolist() == pytest.approx(expected)


def test_deep_supervision_sums_the_weighted_terms() -> None:
    logits = {"f1": torch.zeros(1, 1, 2, 2), "f2": torch.full((1, 1, 2, 2), 2.0), "decision": torch.tensor([-1.0])}
    targets = {"f1": torch.ones(1, 1, 2, 2), "f2": torch.zeros(1, 1, 2, 2), "decision": torch.tensor([1.0])}
    total, terms = deep_supervision(logits, targets, {"f1": 1.0, "f2": 0.5, "decision": 2.0, "unused": 9.0})
    by_hand = {"f1": math.log(2), "f2": softplus(2.0), "decision": softplus(1.0)}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(by_hand)
    assert total.item() == pytest.approx(by_hand["f1"] + 0.5 * by_hand["f2"] + 2 * by_hand["decision"])
    assert not any(term.requires_grad for term in terms.values())


def test_each_logit_is_pulled_by_its_own_weight_and_target() -> None:
    logits = {name: torch.zeros(1, 1, 1, 2, requires_grad=True) for name in ("f1", "f2")}
    targets = {"f1": torch.tensor([[[[1.0, 0.0]]]]), "f2": torch.tensor([[[[0.0, 0.0]]]])}
    deep_supervision(logits, targets, {"f1": 1.0, "f2": 3.0}, positive_weight=2.0)[0].backward()
    assert logits["f1"].grad.flatten().tolist() == pytest.approx([-2 * 0.5 / 2, 0.5 / 2])
    assert logits["f2"].grad.flatten().tolist() == pytest.approx([3 * 0.5 / 2, 3 * 0.5 / 2])


ALL = Phase("all", 1.0, (), {"f1": 1.0})


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ([], "needs phases"),
        ([ALL._replace(length=0)], "length above 0"),
        ([ALL, ALL._replace(length=-1)], "length above 0"),
        ([ALL._replace(weights={"f1": 0.0})], "'all': weights .* with one above 0"),
        ([ALL._replace(weights={})], "'all': weights"),
        ([ALL, ALL._replace(name="second", weights={"f1": 2.0, "f2": -1.0})], "'second': weights"),
    ],
)
def test_phases_that_make_no_sense_are_refused(phases: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_phases(phases)


def test_phase_of_a_step() -> None:
    a, b, c = (Phase(name, length, (), {"f1": 1.0}) for name, length in (("a", 1.0), ("b", 2.0), ("c", 1.0)))
    assert [phase_at([a, b, c], step, 8).phase.name for step in range(10)] == list("aabbbbcccc")
    assert phase_at([a, b, c], 3, 8) == (b, 2, 6)
    assert phase_at([a, b, c], 100, 8) == (c, 6, 8)


lengths = st.lists(st.floats(0.05, 5), min_size=1, max_size=5)


@given(lengths, st.integers(1, 200))
def test_stretches_follow_one_another_and_fill_the_run(parts: list[float], total: int) -> None:
    phases = [Phase(str(i), length, (), {"f1": 1.0}) for i, length in enumerate(parts)]
    stretches = [phase_at(phases, step, total) for step in range(total)]
    assert stretches == [phase_at(phases, step, total) for step in reversed(range(total))][::-1]  # of the step alone
    for step, (phase, start, end) in enumerate(stretches):
        assert start <= step < end
        assert end - start == pytest.approx(phase.length / sum(parts) * total, abs=1)
    order = [int(s.phase.name) for s in stretches]
    assert order == sorted(order) and stretches[-1].end == total
