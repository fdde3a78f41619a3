"""Steps of projects in many styles, over one module that has the parts they use; and the network a watch finds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcal.callbacks.network_finder import NetworkFinder
from tests.support.step_networks import NUM_CLASSES, InPlace, LogProbabilities, Module, Probabilities

Batch = dict[str, Tensor]
Step = Callable[[Any, Batch], object]  # Any: the parts of the module, by name


def make_module(kind: type[Module] = Module) -> Module:
    torch.manual_seed(0)
    return kind().eval()


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 1, 2, 3, 4, 1])
    return {
        "x": torch.randn(6, 3, 8, 8, generator=generator),
        "y": labels,
        "sick": (labels % 2).float(),
        "colour": torch.tensor([1, 1, 0, 0, 1, 0]),
        "grey": torch.randn(6, 8, 8, generator=generator),
        "votes": F.one_hot(4 - labels, NUM_CLASSES) * 0.5 + 0.1,
    }


def find(step: Step, module: nn.Module | None = None, *, is_discarded: bool = True, **wishes: Any) -> NetworkFinder:
    module = module if module is not None else make_module()
    finder = NetworkFinder(**wishes)
    finder.start(module, batch_of(finder), is_discarded=is_discarded)
    with torch.inference_mode():  # as Lightning's evaluation loop is
        try:
            step(module, batch_of(finder))
        except BaseException:
            finder.stop()
            raise
        assert finder.finish(module, batch_of(finder))
    return finder


def batch_of(finder: NetworkFinder) -> Batch:
    """The same batch for all calls of one finder."""
    batch: Batch = finder.__dict__.setdefault("batch", make_batch())
    return batch


def dictionary_step(module: Any, batch: Batch) -> object:
    return module.dictionary(batch["x"], labels=batch["y"])


def keyword_step(module: Any, batch: Batch) -> object:
    return module.dictionary(pixels=batch["x"], labels=batch["y"])


def exits_step(module: Any, batch: Batch) -> object:
    early, late = module.exits(batch["x"])
    return F.cross_entropy(early, batch["y"]) + F.cross_entropy(late, batch["y"]), late.argmax(dim=1)


def margin_step(module: Any, batch: Batch) -> object:
    features = module.backbone(batch["x"]).flatten(1)
    loss = F.cross_entropy(module.margin(features, batch["y"]), batch["y"])
    return loss, module.accuracy(module.margin(features), batch["y"])


FOUND: dict[str, tuple[Step, type[Module], dict[str, Any]]] = {
    "submodule": (lambda m, b: F.cross_entropy(m.net(b["x"]), b["y"]), Module, {"module": "net"}),
    "normalises in forward": (lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), Module, {"module": "self"}),
    "normalises in place": (lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), InPlace, {"module": "self"}),
    "calls forward by name": (lambda m, b: F.cross_entropy(m.forward(b["x"]), b["y"]), Module, {"module": "self"}),
    "loss module": (lambda m, b: m.criterion(m.net(b["x"]), b["y"]), Module, {"module": "net"}),
    "loss that scales logits": (lambda m, b: m.logit_norm(m.net(b["x"]), b["y"]), Module, {"module": "net"}),
    "nll": (lambda m, b: F.nll_loss(m.net(b["x"]).log_softmax(1), b["y"]), Module, {"module": "net"}),
    "nll by hand": (
        lambda m, b: -m.net(b["x"]).log_softmax(1).gather(1, b["y"][:, None]).mean(),
        Module,
        {"module": "net"},
    ),
    "brier by hand": (
        lambda m, b: (torch.softmax(m.net(b["x"]), 1) - F.one_hot(b["y"], NUM_CLASSES)).square().mean(),
        Module,
        {"module": "net"},
    ),
    "nll of probabilities": (
        lambda m, b: F.nll_loss(torch.log(m(b["x"])), b["y"]),
        Probabilities,
        {"module": "self", "made_by": "net"},
    ),
    "log-probabilities": (
        lambda m, b: F.nll_loss(m(b["x"]), b["y"]),
        LogProbabilities,
        {"module": "self", "output": "log_probs"},
    ),
    "one-hot labels": (
        lambda m, b: F.cross_entropy(m.net(b["x"]), F.one_hot(b["y"], NUM_CLASSES).float()),
        Module,
        {"module": "net"},
    ),
    "smoothed labels": (
        lambda m, b: F.cross_entropy(m.net(b["x"]), F.one_hot(b["y"], NUM_CLASSES) * 0.9 + 0.02),
        Module,
        {"module": "net"},
    ),
    "cast": (lambda m, b: F.cross_entropy(m.net(b["x"]).double(), b["y"].int().long()), Module, {"module": "net"}),
    "flattened images": (
        lambda m, b: F.cross_entropy(m.flat(b["x"].flatten(1)), b["y"]),
        Module,
        {"module": "flatten+flat"},
    ),
    "metric only": (lambda m, b: m.accuracy(m.net(b["x"]), b["y"]), Module, {"module": "net"}),
    "prediction only": (lambda m, b: m.net(b["x"]).argmax(1) == b["y"], Module, {"module": "net"}),
    "output dictionary": (dictionary_step, Module, {"module": "dictionary", "logits_key": "['logits']"}),
    "keywords": (keyword_step, Module, {"module": "dictionary", "keyword": "pixels"}),
    "whole batch": (
        lambda m, b: F.cross_entropy(m.whole(b), b["y"]),
        Module,
        {"module": "whole", "inside": "['x']"},
    ),
    "whole pair by keyword": (
        lambda m, b: F.cross_entropy(m.whole(batch=(b["x"], b["y"]), sign=-1), b["y"]),
        Module,
        {"module": "whole", "keyword": "batch", "inside": "[0]", "options": (("sign", -1),)},
    ),
    "sequence": (
        lambda m, b: F.cross_entropy(m.head(m.backbone(b["x"]).flatten(1)), b["y"]),
        Module,
        {"module": "backbone+flatten+head"},
    ),
    "normalises by a module": (
        lambda m, b: F.cross_entropy(m.net(m.normalise(b["x"])), b["y"]),
        Module,
        {"module": "normalise+net"},
    ),
    "binary": (
        lambda m, b: F.binary_cross_entropy_with_logits(m.binary(b["x"]).squeeze(1), b["sick"]),
        Module,
        {"module": "binary", "output": "binary_logits", "target": "batch['sick']"},
    ),
    "binary after sigmoid": (
        lambda m, b: F.binary_cross_entropy(torch.sigmoid(m.binary(b["x"])[:, 0]), b["sick"]),
        Module,
        {"module": "binary", "output": "binary_logits", "target": "batch['sick']"},
    ),
    "images scaled in the step": (
        lambda m, b: F.cross_entropy(m.net((b["x"].float() - 0.5) / 255), b["y"]),
        Module,
        {"module": "net", "input": "batch['x'].sub(0.5).div(255)"},
    ),
    "axes moved in the step": (
        lambda m, b: F.cross_entropy(m.net(b["x"].permute(0, 1, 3, 2)), b["y"]),
        Module,
        {"module": "net", "input": "batch['x'].permute(0, 1, 3, 2)"},
    ),
    "axes added in the step": (
        lambda m, b: F.cross_entropy(m.net(b["grey"].unsqueeze(1).repeat(1, 3, 1, 1)), b["y"]),
        Module,
        {"module": "net", "input": "batch['grey'].unsqueeze(1).repeat(1, 3, 1, 1)"},
    ),
    "logits with empty axes": (
        lambda m, b: F.cross_entropy(m.convolutional(b["x"]).squeeze(), b["y"]),
        Module,
        {"module": "convolutional", "logits_key": ".flatten(1)"},
    ),
    "calls a submodule's forward by name": (
        lambda m, b: F.cross_entropy(m.net.forward(b["x"]), b["y"]),
        Module,
        {"module": "net"},
    ),
    "a loss on labels of its own": (
        lambda m, b: (
            F.binary_cross_entropy_with_logits(m.binary(b["x"]), torch.ones(6, 1)),
            F.cross_entropy(m.net(b["x"]), b["y"]),
        ),
        Module,
        {"module": "net"},
    ),
    "the output that predicts": (exits_step, Module, {"module": "exits", "logits_key": "[1]"}),
    "a teacher of another kind": (
        lambda m, b: [F.cross_entropy(network(b["x"]), b["y"]) for network in (m.teacher, m.net)],
        Module,
        {"module": "net"},
    ),
    "the average that predicts": (
        lambda m, b: (F.cross_entropy(m.net(b["x"]), b["y"]), m.accuracy(m.average(b["x"]), b["y"])),
        Module,
        {"module": "net"},
    ),
    "a loss on the average alone": (
        lambda m, b: (m.net(b["x"]), F.cross_entropy(m.average(b["x"]), b["y"]), m.net(b["x"])),
        Module,
        {"module": "average"},
    ),
    "a margin in the loss": (margin_step, Module, {"module": "backbone+flatten+margin"}),
    "binary after sigmoid and squeeze": (
        lambda m, b: F.binary_cross_entropy(torch.sigmoid(m.binary(b["x"])).squeeze(1), b["sick"]),
        Module,
        {"module": "binary", "output": "binary_logits", "target": "batch['sick']"},
    ),
    "votes": (
        lambda m, b: F.cross_entropy(m.net(b["x"]), b["votes"]),
        Module,
        {"module": "net", "target": "batch['votes']"},
    ),
    "a loss by hand that shows no logits": (
        lambda m, b: (m.head(m.backbone(b["x"]).flatten(1)) - F.one_hot(b["y"], NUM_CLASSES)).square().mean(),
        Module,
        {"module": "backbone+flatten+head"},
    ),
    "several losses": (
        lambda m, b: (F.cross_entropy(m.net(b["x"]), b["y"]), F.mse_loss(m.head(m.net.features(b["x"])), m(b["x"]))),
        Module,
        {"module": "net"},
    ),
}


REFUSED: dict[str, tuple[Step, type[Module], str]] = {
    "probabilities": (
        lambda m, b: F.cross_entropy(m(b["x"]), b["y"]),
        Probabilities,
        r"returns probabilities \(rows that are not negative and sum to 1\).*`logits='torch.log'`",
    ),
    "probabilities with a little added": (
        lambda m, b: F.nll_loss(torch.log(m(b["x"]) + 1e-8), b["y"]),
        Probabilities,
        r"self: The network returns probabilities",
    ),
    "probabilities in the step": (
        lambda m, b: F.cross_entropy(m.net(b["x"]).softmax(1), b["y"]),
        Module,
        "What cross_entropy read: The network returns probabilities",
    ),
    "binary probabilities": (
        lambda m, b: F.binary_cross_entropy(m.binary(b["x"]).sigmoid().mul(1)[:, 0], b["sick"]),
        Module,
        r"values in \[0, 1\].*`logits='torch.logit'`",
    ),
    "scaled logits": (
        lambda m, b: F.cross_entropy(m.net(b["x"]) * 3, b["y"]),
        Module,
        r"Let `forward` compute it.*cross_entropy read \(6, 5\).* that read images: net \(Net\).*Pass `network=`",
    ),
    "images changed in the step": (
        lambda m, b: F.cross_entropy(m.net(b["x"] / b["x"].max()), b["y"]),
        Module,
        "`batch_to_inputs=`, a function from the batch",
    ),
    "images changed in place in the step": (
        lambda m, b: F.cross_entropy(m.net(b["x"].mul_(3)), b["y"]),
        Module,
        r"net returned something else when it was run again",
    ),
    "ensemble": (
        lambda m, b: F.cross_entropy(torch.stack([net(b["x"]) for net in m.two]).mean(0), b["y"]),
        Module,
        "No network was found",
    ),
    "dropout that stays": (
        lambda m, b: F.cross_entropy(F.dropout(m.net(b["x"]), training=True), b["y"]),
        Module,
        "No network was found",
    ),
    "numbers drawn in the network": (
        lambda m, b: F.cross_entropy(m.noisy(b["x"]), b["y"]),
        Module,
        "noisy returns something else each time it is run",
    ),
    "several inputs": (
        lambda m, b: F.cross_entropy(m.two_inputs(b["x"], b["grey"]), b["y"]),
        Module,
        r"two_inputs reads several parts of the batch \(batch\['x'\], batch\['grey'\]\)",
    ),
    "labels in the network": (
        lambda m, b: F.cross_entropy(m.margin(m.backbone(b["x"]).flatten(1), b["y"]), b["y"]),
        Module,
        "margin is given labels and gives other scores without them.*call it without them in `validation_step`",
    ),
    "network and average": (
        lambda m, b: [F.cross_entropy(network(b["x"]), b["y"]) for network in (m.net, m.average)],
        Module,
        r"logits of several networks \(net, average\). Pass `network=`",
    ),
    "labels beyond the classes": (
        lambda m, b: m.colours(b["x"]).log_softmax(1),
        Module,
        r"colours gives 2 logits a row, but batch\['y'\] holds the label 2",
    ),
    "several labels": (
        lambda m, b: (F.cross_entropy(m.net(b["x"]), b["y"]), F.cross_entropy(m.colours(b["x"]), b["colour"])),
        Module,
        r"several labels \(batch\['colour'\], batch\['y'\]\).*Pass `logits=`",
    ),
    "student and teacher": (
        lambda m, b: [F.cross_entropy(net(b["x"]), b["y"]) for net in m.two],
        Module,
        r"logits of several networks \(two.0, two.1\). Pass `network=`",
    ),
    "labels made in the step": (
        lambda m, b: F.cross_entropy(m.net(b["x"]), (b["y"] + 1) % NUM_CLASSES),
        Module,
        "cross_entropy read labels that are no part of the batch",
    ),
    "several sigmoids": (
        lambda m, b: F.binary_cross_entropy_with_logits(m.net(b["x"]), F.one_hot(b["y"], NUM_CLASSES).float()),
        Module,
        "each with a sigmoid of its own",
    ),
    "segmentation": (
        lambda m, b: F.cross_entropy(m.net.conv(b["x"]), torch.zeros(6, 6, 6, dtype=torch.long)),
        Module,
        r"cross_entropy read \(6, 4, 6, 6\)",
    ),
    "two networks and no loss": (lambda m, b: (m.net(b["x"]), m.colours(b["x"])), Module, "losses: none seen"),
    "nothing": (lambda _m, _b: None, Module, "submodules that read images: none"),
}
