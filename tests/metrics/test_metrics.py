import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from qcal.metrics import (
    AURC,
    Accuracy,
    AdaptiveECE,
    BrierScore,
    ClasswiseECE,
    ExpectedCalibrationError,
    MaximumCalibrationError,
    NegativeLogLikelihood,
    Overconfidence,
    OverconfidenceOnCorrect,
    OverconfidenceOnWrong,
    OverECE,
    RiskAtCoverage,
    RMSCalibrationError,
    ScoreMetric,
    TopLabelBrierDecomposition,
    UnderECE,
)
from tests.functional.score_cases import random_logits
from tests.metrics.metric_cases import CASES, NUM_CLASSES, Case, value_of

every_metric = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits with ties and exact 1s among the confidences, and targets."""
    logits, target = random_logits(203, NUM_CLASSES)
    logits[:20] = logits[:20].round()
    logits[20:40] *= 30
    return logits, target


def _states(metric: ScoreMetric) -> Iterator[Tensor]:
    for name in metric._defaults:
        value = getattr(metric, name)
        yield from [value] if isinstance(value, Tensor) else value


@every_metric
def test_it_is_the_function_of_its_name(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("logits")
    metric.update(*batch)
    value = value_of(metric)
    assert value.shape == ()
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, case.expected(*batch), rtol=0, atol=1e-9)


@every_metric
def test_probabilities_give_what_their_logits_give(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0][40:], batch[1][40:]  # the extreme rows round differently
    metric, other = case.make("logits"), case.make("probs")
    metric.update(logits, target)
    other.update(torch.softmax(logits, dim=1), target)
    torch.testing.assert_close(value_of(other), value_of(metric), rtol=0, atol=1e-6)


@every_metric
def test_two_half_batches_equal_one_in_any_order(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    whole, halves = case.make("logits"), case.make("logits")
    whole.update(logits, target)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    for part in (order[:80], order[80:]):
        halves.update(logits[part], target[part])
    torch.testing.assert_close(value_of(halves), value_of(whole), rtol=0, atol=1e-12)


@every_metric
def test_float32_and_float64_agree(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = random_logits(500, NUM_CLASSES)
    single, double = case.make("logits"), case.make("logits")
    single.update(logits, target)
    double.update(logits.double(), target)
    torch.testing.assert_close(value_of(single), value_of(double), rtol=0, atol=1e-6)


@every_metric
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_lifted_first(case: Case, dtype: torch.dtype, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0].to(dtype), batch[1]
    half, lifted = case.make("logits"), case.make("logits")
    half.update(logits, target)
    lifted.update(logits.float(), target)
    assert torch.equal(value_of(half), value_of(lifted))


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics warns before our error
def test_an_epoch_without_samples_is_an_error(case: Case) -> None:
    metric = case.make("logits")
    with pytest.raises(
        ValueError, match=rf"{type(metric).__name__} has seen no samples.* Call `update` before `compute`"
    ):
        metric.compute()


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics warns before our error
def test_reset_forgets_everything(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("logits")
    metric.update(*random_logits(50, NUM_CLASSES, seed=3))
    metric.reset()
    with pytest.raises(ValueError, match="has seen no samples"):
        metric.compute()
    metric.update(*batch)
    torch.testing.assert_close(value_of(metric), case.expected(*batch), rtol=0, atol=1e-9)


@every_metric
def test_the_state_is_sums_or_eight_bytes_a_sample(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("logits")
    metric.update(*batch)
    once = sum(state.nbytes for state in _states(metric))
    metric.update(*batch)
    twice = sum(state.nbytes for state in _states(metric))
    assert once == (8 * len(batch[1]) if case.keeps_samples else twice)
    if not case.keeps_samples:
        assert all(state.dtype in (torch.float64, torch.int64) for state in _states(metric))


@every_metric
def test_casting_a_module_leaves_the_state_in_float64(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    module = nn.ModuleDict({"score": case.make("logits"), "layer": nn.Linear(2, 2)})
    module.half().bfloat16().to(torch.float16)
    metric = module["score"]
    assert isinstance(metric, ScoreMetric)
    metric.update(*batch)
    torch.testing.assert_close(value_of(metric), case.expected(*batch), rtol=0, atol=1e-9)


@every_metric
def test_setting_the_type_of_the_state_is_refused(case: Case) -> None:
    with pytest.raises(TypeError, match=r"keeps float64 sums and int64 counts, got set_dtype\(torch.float16\)"):
        case.make("logits").set_dtype(torch.float16)


@every_metric
def test_copies_and_pickles_go_on_from_where_they_were(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("logits")
    metric.update(batch[0][:100], batch[1][:100])
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.update(batch[0][100:], batch[1][100:])
        torch.testing.assert_close(value_of(twin), case.expected(*batch), rtol=0, atol=1e-9)


@every_metric
def test_nan_logits_are_refused_and_leave_the_state_alone(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("logits")
    metric.update(*batch)
    spoilt = batch[0].clone()
    spoilt[[3, 5, 90], NUM_CLASSES - 1] = float("nan")
    with pytest.raises(ValueError, match=r"`logits` must be finite, got 3 of 203 rows"):
        metric.update(spoilt, batch[1])
    torch.testing.assert_close(value_of(metric), case.expected(*batch), rtol=0, atol=1e-9)


@every_metric
@pytest.mark.parametrize("inputs", ["logits", "probs"])
def test_targets_out_of_range_are_refused(case: Case, inputs: str, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("probs" if inputs == "probs" else "logits")
    target = batch[1].clone()
    target[[0, 7]] = NUM_CLASSES
    preds = torch.softmax(batch[0], dim=1) if inputs == "probs" else batch[0]
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 5\].*got 2 of 203 outside \(for instance 6\)"):
        metric.update(preds, target)


@every_metric
def test_logits_given_for_probabilities_are_refused(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"If these are logits, use the function or `inputs=` for logits"):
        case.make("probs").update(*batch)


@every_metric
@pytest.mark.parametrize(
    ("preds", "target", "error", "message"),
    [
        (
            torch.zeros(4),
            torch.zeros(4, dtype=torch.int64),
            ValueError,
            r"`logits` must have shape \(N, C\).*got \(4,\)",
        ),
        (torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64), ValueError, r"N >= 1 samples"),
        (torch.zeros(4, 6), torch.zeros(3, dtype=torch.int64), ValueError, r"`target` must have shape \(4,\).*\(3,\)"),
        (torch.zeros(4, 6), torch.zeros(4, 6, dtype=torch.int64), ValueError, r"not one-hot rows"),
        (torch.zeros(4, 6), torch.zeros(4), TypeError, r"`target` must hold int64 class indices, got torch.float32"),
        (torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), TypeError, r"floating tensor"),
    ],
)
def test_wrong_shapes_and_types_are_refused(
    case: Case, preds: Tensor, target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        case.make("logits").update(preds, target)


@every_metric
def test_inference_mode_and_deterministic_algorithms_are_no_obstacle(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("logits")
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode():
            metric.update(batch[0][:100], batch[1][:100])
            metric.reset()
            metric.update(batch[0][:100], batch[1][:100])
        metric.update(batch[0][100:], batch[1][100:])
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(value_of(metric), case.expected(*batch), rtol=0, atol=1e-9)


def test_forward_gives_the_score_of_the_batch_and_keeps_that_of_the_epoch(batch: tuple[Tensor, Tensor]) -> None:
    metric, logits, target = ExpectedCalibrationError(), *batch
    first, second = metric(logits[:100], target[:100]), metric(logits[100:], target[100:])
    torch.testing.assert_close(first, CASES["ece"].expected(logits[:100], target[:100]))
    torch.testing.assert_close(second, CASES["ece"].expected(logits[100:], target[100:]))
    torch.testing.assert_close(metric.compute(), CASES["ece"].expected(logits, target))


def test_metrics_of_one_state_share_it_in_a_collection(batch: tuple[Tensor, Tensor]) -> None:
    scores = MetricCollection(
        {"ece": ExpectedCalibrationError(), "mce": MaximumCalibrationError(), "rms": RMSCalibrationError()}
    )
    scores.update(batch[0][:100], batch[1][:100])
    scores.update(batch[0][100:], batch[1][100:])
    assert len(scores.compute_groups) == 1
    for name, value in scores.compute().items():
        torch.testing.assert_close(value, CASES[name].expected(*batch), rtol=0, atol=1e-9)


def test_parts_add_up(batch: tuple[Tensor, Tensor]) -> None:
    scores = MetricCollection(
        [
            ExpectedCalibrationError(),
            OverECE(),
            UnderECE(),
            Overconfidence(),
            OverconfidenceOnCorrect(),
            OverconfidenceOnWrong(),
            TopLabelBrierDecomposition(),
        ]
    )
    value = scores(*batch)
    torch.testing.assert_close(value["OverECE"] + value["UnderECE"], value["ExpectedCalibrationError"])
    torch.testing.assert_close(value["OverECE"] - value["UnderECE"], value["Overconfidence"])
    parts = value["OverconfidenceOnCorrect"] + value["OverconfidenceOnWrong"]
    torch.testing.assert_close(parts, value["Overconfidence"])
    corp = value["miscalibration"] - value["discrimination"] + value["uncertainty"]
    torch.testing.assert_close(corp, value["top_label_brier"])


def test_the_bins_of_a_reliability_diagram_can_be_read_from_the_metric(batch: tuple[Tensor, Tensor]) -> None:
    metric = ExpectedCalibrationError(num_bins=5)
    metric.update(*batch)
    bins = metric.bins()
    assert bins.count.sum().item() == len(batch[1])
    assert len(bins.edges) == 6


def test_without_validation_the_scores_of_good_input_are_the_same(batch: tuple[Tensor, Tensor]) -> None:
    for metric in (ExpectedCalibrationError(validate_args=False), NegativeLogLikelihood(validate_args=False)):
        metric.update(*batch)
        name = "ece" if isinstance(metric, ExpectedCalibrationError) else "nll"
        torch.testing.assert_close(metric.compute(), CASES[name].expected(*batch), rtol=0, atol=1e-9)


def test_without_validation_nan_logits_never_become_a_number() -> None:
    logits, target = torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), torch.tensor([0, 1])
    for metric in (ExpectedCalibrationError(validate_args=False), NegativeLogLikelihood(validate_args=False)):
        metric.update(logits, target)
        assert metric.compute().isnan()


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`inputs` must be one of \('logits', 'probs'\), got 'scores'"):
        ExpectedCalibrationError(inputs="scores")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match=r"`num_bins` must be at least 1, got 0"):
        ExpectedCalibrationError(num_bins=0)
    with pytest.raises(ValueError, match=r"`num_bins` must be at least 1, got 0"):
        AdaptiveECE(num_bins=0)
    with pytest.raises(ValueError, match=r"`convention` must be one of"):
        ExpectedCalibrationError(convention="none")  # type: ignore[arg-type]  # as above
    with pytest.raises(ValueError, match=r"`top_k` must be at least 1, got 0"):
        Accuracy(top_k=0)
    with pytest.raises(ValueError, match=r"`coverage` must be in \(0, 1\], got 80"):
        RiskAtCoverage(coverage=80)
    with pytest.raises(ValueError, match=r"`num_classes` must be at least 2, got 1"):
        ClasswiseECE(num_classes=1)


def test_more_classes_than_the_metric_was_built_for_are_refused(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"`preds` must have 4 classes, got 6. Build the metric with num_classes=6"):
        ClasswiseECE(num_classes=4).update(*batch)
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 6\], the number of classes, got 7"):
        Accuracy(top_k=7).update(*batch)


@pytest.mark.gpu
@every_metric
def test_a_gpu_gives_what_the_cpu_gives(case: Case, batch: tuple[Tensor, Tensor]) -> None:
    metric = case.make("logits").to("cuda")
    metric.update(batch[0].cuda(), batch[1].cuda())
    torch.testing.assert_close(value_of(metric).cpu(), case.expected(*batch), rtol=0, atol=1e-6)


def test_higher_is_better_says_so_where_it_is_known() -> None:
    assert Accuracy.higher_is_better is True
    for kind in (ExpectedCalibrationError, NegativeLogLikelihood, BrierScore, AURC):
        assert kind.higher_is_better is False
    assert Overconfidence.higher_is_better is None
