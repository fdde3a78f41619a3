import operator
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from qcal.callbacks.batches import (
    UNKNOWN,
    as_labels,
    custom_image_reader,
    custom_reader,
    describe,
    image_reader,
    import_function,
    leaves,
    read,
    reader,
    unreadable,
    usual_paths,
)

IMAGES, LABELS = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
Named = namedtuple("Named", ["image", "label"])  # projects use this form


@dataclass
class _Sample:
    pixels: Tensor
    label: Tensor
    name: str


class _Plain:
    def __init__(self) -> None:
        self.x, self.y = IMAGES, LABELS


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((IMAGES, LABELS), ("batch[0]", "batch[1]")),
        ([IMAGES, LABELS], ("batch[0]", "batch[1]")),
        ((IMAGES, LABELS, torch.arange(4)), ("batch[0]", "batch[1]")),
        ((IMAGES, LABELS, ["a", "b", "c", "d"]), ("batch[0]", "batch[1]")),
        ({"image": IMAGES, "label": LABELS}, ("batch['image']", "batch['label']")),
        ({"pixel_values": IMAGES, "labels": LABELS}, ("batch['pixel_values']", "batch['labels']")),
        ({"x": IMAGES, "y": LABELS, "index": torch.arange(4)}, ("batch['x']", "batch['y']")),
        ({"inputs": {"img": IMAGES}, "targets": LABELS}, ("batch['inputs']['img']", "batch['targets']")),
        (((IMAGES, torch.arange(4)), LABELS), ("batch[0][0]", "batch[1]")),
        (Named(IMAGES, LABELS), ("batch.image", "batch.label")),
        (_Sample(IMAGES, LABELS, "a"), ("batch.pixels", "batch.label")),
        (_Plain(), ("batch.x", "batch.y")),
        ({"a": IMAGES, "b": LABELS}, ("batch['a']", "batch['b']")),
        ({7: IMAGES, 8: LABELS}, ("batch[7]", "batch[8]")),
    ],
)
def test_images_and_labels_are_found_where_they_usually_are(batch: Any, expected: tuple[str, str]) -> None:
    assert usual_paths(batch) == expected
    images, target = reader(*expected)(batch)
    assert images is IMAGES
    assert torch.equal(target, LABELS)


@pytest.mark.parametrize(
    "batch",
    [
        IMAGES,
        (IMAGES,),
        (IMAGES, torch.rand(4)),
        {"a": IMAGES, "b": IMAGES, "c": LABELS},
        (IMAGES, LABELS[:3]),
        "images",
        [],
    ],
)
def test_nothing_is_guessed_where_names_and_places_do_not_tell(batch: Any) -> None:
    assert usual_paths(batch) is None


def test_a_path_is_the_expression_that_reads_the_tensor() -> None:
    batch = {"inputs": [Named(IMAGES, LABELS)], "rest": _Sample(IMAGES, LABELS, "a")}
    found = leaves(batch)
    assert list(found) == [
        "batch['inputs'][0].image",
        "batch['inputs'][0].label",
        "batch['rest'].pixels",
        "batch['rest'].label",
    ]
    for path, leaf in found.items():
        assert eval(path, {"batch": batch}) is leaf
        assert read(batch, path.removeprefix("batch")) is leaf


def test_images_of_whole_numbers_become_float_where_the_path_says_so() -> None:
    batch = (torch.ones(4, 3, 8, 8, dtype=torch.uint8), LABELS)
    assert reader("batch[0].float()", "batch[1]")(batch)[0].dtype == torch.float32
    assert reader("batch[0]", "batch[1]")(batch)[0].dtype == torch.uint8


def test_an_unreadable_batch_is_shown_with_the_argument_to_pass() -> None:
    batch = {"image": IMAGES, "boxes": [torch.zeros(2, 4)], "id": 3}
    message = unreadable(batch, "labels are missing")
    assert "dict{'image': Tensor(4, 3, 8, 8) float32, 'boxes': list[Tensor(2, 4) float32], 'id': int}" in message
    assert "Pass `batch_to_inputs=`" in message
    with pytest.raises(ValueError, match=r"batch\['label'\] were expected. The batch is dict\{'image'"):
        reader("batch['image']", "batch['label']")(batch)


def test_a_long_batch_is_cut_in_the_message() -> None:
    assert describe(list(range(20))).endswith("int, ... 12 more]")


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (LABELS, LABELS),
        (LABELS[:, None], LABELS),
        (LABELS.to(torch.uint8), LABELS),
        (torch.tensor([0.0, 1.0]), torch.tensor([0, 1])),
        (torch.tensor([[1.0], [0.0]]), torch.tensor([1, 0])),
        (torch.tensor([True, False]), torch.tensor([1, 0])),
        (torch.nn.functional.one_hot(LABELS), LABELS),
        (torch.tensor([0.5, 1.0]), None),
        (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), None),
        (torch.tensor([[0.9, 0.1]]), None),
        (torch.zeros(2, 3, 3), None),
    ],
)
def test_labels_are_class_indices_or_nothing(target: Tensor, labels: Tensor | None) -> None:
    found = as_labels(target)
    assert found is None if labels is None else found is not None and torch.equal(found, labels)
    assert found is None or found.dtype == torch.int64


def test_a_function_of_the_user_is_checked() -> None:
    assert custom_reader(lambda b: (b["a"], b["b"]))({"a": IMAGES, "b": LABELS})[0] is IMAGES
    with pytest.raises(ValueError, match=r"`\(images, target\)` was expected, got Tensor\(4, 3, 8, 8\) float32"):
        custom_reader(lambda b: b["a"])({"a": IMAGES})
    with pytest.raises(ValueError, match=r"class indices \(N,\) were expected, got tuple\[Tensor"):
        custom_reader(lambda b: (b["a"], b["a"]))({"a": IMAGES})


def test_a_dotted_path_names_a_function() -> None:
    assert import_function("operator.itemgetter") is operator.itemgetter
    for path, message in [
        ("operator.nothing", "no attribute"),
        ("no_such_module.f", "No module"),
        ("plain", "Empty module"),
        ("math.pi", "got float"),
    ]:
        with pytest.raises(ValueError, match=f"must be the dotted import path of a function.*{message}"):
            import_function(path)


@pytest.mark.parametrize("labels", [LABELS, (LABELS, LABELS, 0.3), None, "unlabelled"])
def test_images_are_read_whatever_the_labels_are(labels: Any) -> None:
    for read_images in (image_reader("batch['x']"), custom_image_reader(lambda batch: (batch["x"], batch["y"]))):
        images, target = read_images({"x": IMAGES, "y": labels})
        assert torch.equal(images, IMAGES)
        assert target.tolist() == [UNKNOWN] * 4


@pytest.mark.parametrize("read_images", [image_reader("batch['x']"), custom_image_reader(lambda batch: batch)])
def test_a_batch_without_images_is_described(read_images: Any) -> None:
    with pytest.raises(ValueError, match="`batch_to_inputs=`, a function"):
        read_images({"z": LABELS})
