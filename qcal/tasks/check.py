"""Do model and data fit together? Asked before anything is trained or written."""

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from qcal.data import ImageDataModule
from qcal.models import check_logits
from qcal.tasks.classifier import Classifier


def check_fit(classifier: Classifier, datamodule: ImageDataModule, stage: str = "fit") -> None:
    """Load the data and run two of its images through the model.

    Args:
        classifier: What is to be trained or tested; unchanged, as is the random state.
        datamodule: What it will read; its data is prepared and loaded.
        stage: `fit`, `validate`, `test` or `predict`.

    Raises:
        ValueError: The data is not usable, or the model's output on it is not `(N, C)`, not finite, or has fewer
            outputs than there are classes.
        OSError: The data is not there.
    """
    with isolate_rng():
        datamodule.prepare_data()
        datamodule.setup(stage)
        loader = datamodule.train_dataloader() if stage == "fit" else datamodule.test_dataloader()
        images = next(iter(loader))[0][:2]
        if not bool(torch.isfinite(images).all()):
            raise ValueError(
                "The images hold NaN or infinity after normalisation. Check the files, and that no `std` is 0."
            )
        check_logits(classifier, images, datamodule.num_classes)
