from pathlib import Path

import pytest
import torch

from qcal.report.answer import compared_answer, dilemma_answer, main_setting, repaired_answer
from qcal.report.comparisons import compare_regimes
from qcal.report.dilemma import associations
from qcal.report.find_records import find_records, read_records
from qcal.report.runs import Chapter, chapters, read_run
from qcal.robustness import compare
from tests.report.synthetic_runs import network_logits, write_run, write_sweep


def _chapter(folder: Path) -> Chapter:
    found, _ = read_records(find_records([str(folder)])[0])
    (chapter,) = chapters([read_run(each) for each in found])
    return chapter


@pytest.fixture(scope="module")
def protecting(tmp_path_factory: pytest.TempPathFactory) -> Chapter:
    return _chapter(write_sweep(tmp_path_factory.mktemp("protecting"), num_images=1000))


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> Chapter:
    return _chapter(write_sweep(tmp_path_factory.mktemp("null"), num_images=1000, protects=False))


def test_an_effect_that_is_there_is_found_with_its_interval(protecting: Chapter) -> None:
    found = {each.setting: each for each in associations(protecting, "overconfidence")}
    effect = found["w4a4"]
    assert effect.verdict == "protects"
    assert effect.num_runs == 20
    assert effect.partial.value is not None
    assert effect.partial.value < -0.8
    for interval in (effect.partial.runs, effect.partial.runs_jointly, effect.partial.regimes):
        assert interval is not None
        assert interval.low <= effect.partial.value <= interval.high < 0
    assert effect.partial.runs is not None
    assert effect.partial.runs_jointly is not None
    assert effect.partial.runs_jointly.low <= effect.partial.runs.low
    answer = dilemma_answer(protecting, list(found.values()))
    assert answer.startswith("Over 20 runs of 5 regimes, the more overconfident the float network, the less error")
    assert "at w4a4 the rank correlation is \N{MINUS SIGN}0." in answer
    assert "it holds when whole regimes are drawn again, too" in answer


def test_where_there_is_no_effect_it_cannot_be_told(null: Chapter) -> None:
    found = associations(null, "overconfidence")
    assert {each.verdict for each in found} == {"cannot be told"}
    answer = dilemma_answer(null, found)
    assert "cannot be told from these runs: over 20 runs of 5 regimes the rank correlation" in answer
    assert "every interval holds 0" in answer
    assert "cannot be told from these runs: in none of 8 comparisons" in compared_answer(null, compare_regimes(null))


def test_regimes_differ_from_cross_entropy_by_the_known_amount(protecting: Chapter) -> None:
    found = {(each.regime, each.setting): each for each in compare_regimes(protecting)}
    assert len(found) == 8  # four regimes, two settings
    # The same networks on so many images that the share is known to a thousandth.
    known = {
        strength: sum(
            compare(logits.float, logits.settings["w4a4"], logits.target).error_change
            for logits in (network_logits(strength, seed, num_images=100_000, images=7) for seed in range(4))
        )
        / 4
        for strength in (-0.5, 0.0)
    }
    under = found["dial -0.5", "w4a4"]
    assert under.difference.number == 4
    assert under.told
    assert under.interval is not None
    truth = known[-0.5] - known[0.0]
    assert truth > 0.02
    assert under.interval.low <= truth <= under.interval.high
    # All see the same 1000 images: their draw stays when seeds are averaged.
    assert under.difference.mean == pytest.approx(truth, abs=0.04)
    answer = compared_answer(protecting, list(found.values()))
    assert "Beside cross-entropy, quantization added more error to dial -0.5 at w4a4 (+" in answer
    assert ", less error to dial +0.5 at w4a4 (\N{MINUS SIGN}" in answer


def test_the_error_that_follows_accuracy_alone_is_called_so(protecting: Chapter) -> None:
    """Accuracy ranks the runs as overconfidence does: nothing is left with accuracy held fixed."""
    runs = []
    for place, run in enumerate(protecting.runs):
        accuracy = 0.9 - 0.5 * run.scores.overconfidence
        scores = type(run.scores)(**{**vars(run.scores), "accuracy": accuracy})
        wobble = 0.02 * torch.sin(torch.tensor(37.0 * place)).item()
        settings = {
            "w4a4": type(run.settings["w4a4"])(**{**vars(run.settings["w4a4"]), "error_change": accuracy / 4 + wobble})
        }
        runs.append(type(run)(**{**vars(run), "scores": scores, "settings": settings}))
    chapter = Chapter("made", tuple(runs), protecting.regimes, ("w4a4",), protecting.num_images)
    # Exactly the same ranking leaves nothing to correlate at all.
    (exact,) = associations(chapter, "overconfidence")
    assert exact.plain.sign == -1
    assert exact.partial.value is None
    assert exact.verdict == "follows accuracy"
    assert "float accuracy ranks the runs alike" in dilemma_answer(chapter, [exact])


def test_few_runs_cannot_tell(tmp_path: Path) -> None:
    chapter = _chapter(write_sweep(tmp_path, seeds=1, num_images=200))
    found = associations(chapter, "ece")
    assert {each.verdict for each in found} == {"too few runs"}
    assert all(each.plain.runs is None for each in found)
    answer = dilemma_answer(chapter, found)
    assert answer.startswith("Whether a more miscalibrated (ECE) network loses less to quantization cannot be told")
    assert "there are 5, and a correlation takes at least 8" in answer
    assert "a paired test takes three seeds" in compared_answer(chapter, compare_regimes(chapter))


def test_without_cross_entropy_or_another_regime_nothing_is_compared(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "over" / str(seed), 0.5, seed, num_images=100)
        write_run(tmp_path / "base" / str(seed), 0.0, seed, num_images=100)
    over, base = _chapter(tmp_path / "over"), _chapter(tmp_path / "base")
    assert "none was trained with it" in compared_answer(over, compare_regimes(over))
    assert "all were trained with cross-entropy" in compared_answer(base, compare_regimes(base))
    assert "none has logits of images kept aside" in repaired_answer(main_setting(base), [])


def test_seeds_are_paired_and_other_recipes_are_not(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"base{seed}", 0.0, seed, num_images=100)
    for seed in (1, 2, 3):
        write_run(tmp_path / f"over{seed}", 0.5, seed, num_images=100)
    assert {each.difference.number for each in compare_regimes(_chapter(tmp_path))} == {2}
    other = _chapter(tmp_path).runs[0].context["config"]
    write_run(tmp_path / "longer", 0.5, 0, num_images=100, config={**other, "trainer": {"max_epochs": 9}})
    assert {each.difference.number for each in compare_regimes(_chapter(tmp_path))} == {2}


def test_other_networks_and_images_make_a_chapter_of_their_own(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", 0.0, seed, num_images=100)
    write_run(tmp_path / "b", 0.0, 0, num_images=120)
    write_run(tmp_path / "stranger", num_images=100, config=None, network="Net")
    found, _ = read_records(find_records([str(tmp_path)])[0])
    made = chapters([read_run(each) for each in found])
    assert [len(chapter.runs) for chapter in made] == [2, 1, 1]
    stranger = next(run for chapter in made for run in chapter.runs if run.name == "stranger")
    assert (stranger.regime, stranger.model, stranger.recipe) == ("stranger", "Net", None)
    assert len({chapter.title for chapter in made}) == 3


def test_the_main_setting_is_the_coarsest_that_keeps_half_of_the_accuracy(protecting: Chapter) -> None:
    assert main_setting(protecting) == "w4a4"
    broken = []
    for run in protecting.runs:
        lost = type(run.settings["w4a4"])(**{**vars(run.settings["w4a4"]), "accuracy": 0.2})
        broken.append(type(run)(**{**vars(run), "settings": {**run.settings, "w4a4": lost}}))
    chapter = Chapter("broken", tuple(broken), protecting.regimes, protecting.settings, protecting.num_images)
    assert main_setting(chapter) == "w8a8"
