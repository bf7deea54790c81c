"""Backdoored and clean classifiers that an audit knows nothing of: how many does it call backdoored, and how long?

Classifiers are trained on MNIST where it is there and on digits else, longer than the audit's twins and on images that
the twins never see: some clean, the others with a patch, a blended image or a faint pattern planted for a class drawn
at random. Each is judged by `paperweight.audits.backdoor_findings.chance` beside one set of clean twins, and by the
rule of Neural Cleanse, an anomaly index of a mask above 2; the rule is also given the limit at which it calls one clean
model in twenty, by the clean models themselves, which favours it. How many of each the audit calls for pairs of classes
that share a trigger, by UMD, stands beside.

    python benchmarks/backdoor_detection.py [--models 12] [--twins 12] [--seed 0]
"""

import argparse
import statistics
import time

import torch
from torch import nn

from paperweight.audits.backdoor import half, planted_trigger, traces_of, trained_twin
from paperweight.audits.backdoor_findings import FORMS, LEVEL, Traces, chance
from paperweight.audits.backdoor_pairs import pair_findings
from paperweight.audits.erasure_findings import Rate
from paperweight.data import LabelledImages, load_images, split_images
from paperweight.errors import InputError
from paperweight.loops import fit_classifier
from paperweight.nets import MLP, LeNet
from paperweight.poisoning import all_to_one, anomaly_index, attack_success, poison


def main() -> None:
    """Train, judge, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=12, help="clean models, and as many backdoored ones")
    parser.add_argument("--twins", type=int, default=12, help="clean twins")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(given.seed)
    sizes = {"train": 8_000, "validation": 4_000, "test": 2_000}
    try:
        data, kind = load_images("mnist"), LeNet
    except InputError:
        data, kind, sizes = load_images("digits"), MLP, {"train": 800, "validation": 500, "test": 400}
    parts = split_images(data, **sizes, generator=draw)
    classes = len(parts.classes)

    def make() -> nn.Module:
        return kind(parts.shape, classes)

    def models(training: LabelledImages) -> nn.Module:
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw)))
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        fit_classifier(model, optimizer, training.images, training.labels, steps=1_000, batch_size=64, generator=draw)
        return model

    looked = LabelledImages(parts.test.images[:200], parts.test.labels[:200])
    twins = [
        traces_of(trained_twin(make, half(parts.validation, draw), 400, draw), looked, classes, 300, draw)
        for _ in range(given.twins)
    ]
    seconds: list[float] = []

    def look(model: nn.Module) -> Traces:
        start = time.process_time()
        traces = traces_of(model, looked, classes, 300, draw)
        seconds.append(time.process_time() - start)
        return traces

    shared = {False: 0, True: 0}  # alarms of pairs of classes, of clean and of backdoored models

    def judged(model: nn.Module, backdoored: bool) -> Traces:
        shared[backdoored] += any(each.alarm for each in pair_findings(model, parts.test, classes))
        return look(model)

    clean = [judged(models(parts.train), False) for _ in range(given.models)]
    found: list[tuple[str, Traces, int, float]] = []
    for number in range(given.models):
        form = FORMS[number % len(FORMS)]
        trigger, target = planted_trigger(form, parts.shape, draw), int(torch.randint(classes, (1,), generator=draw))
        bad = poison(
            parts.train.images,
            parts.train.labels,
            trigger=trigger,
            targets=all_to_one(target, classes),
            rate=0.05,
            generator=draw,
        )
        model = models(LabelledImages(bad.images, bad.labels))
        success = attack_success(
            model, parts.test.images, parts.test.labels, trigger=trigger, targets=all_to_one(target, classes)
        )
        found.append((form, judged(model, True), target, success))
    limit = torch.tensor([float(_index(each)) for each in clean]).quantile(0.95).item()
    print("judge                          clean called   backdoored called   by form   right class")
    judges = {
        "audit, p below 0.001": lambda each: (chance(each, twins).p < LEVEL, chance(each, twins).target),
        "index above 2": lambda each: (_index(each) > 2, _smallest(each)),
        f"index above {limit:.2f} (5% of clean)": lambda each: (_index(each) > limit, _smallest(each)),
    }
    for name, judge in judges.items():
        alarms = Rate(sum(judge(each)[0] for each in clean), len(clean))
        calls = [(form, *judge(each), target) for form, each, target, _ in found]
        caught = Rate(sum(called for _, called, _, _ in calls), len(calls))
        by_form = ", ".join(f"{form} {sum(c for f, c, _, _ in calls if f == form)}" for form in FORMS)
        right = sum(called and suspect == target for _, called, suspect, target in calls)
        print(
            f"{name:30} {alarms.hits:3d} of {alarms.count} ({alarms.low:.2f} to {alarms.high:.2f})"
            f" {caught.hits:3d} of {caught.count} ({caught.low:.2f} to {caught.high:.2f})   {by_form}   {right}"
        )
    print(f"pairs that share a trigger, by UMD: {shared[False]} clean called, {shared[True]} backdoored called")
    print(f"success of the triggers: {', '.join(f'{form} {each:.2f}' for form, _, _, each in found)}")
    print(f"searches of a model: {statistics.median(seconds):.1f} s of computing time, at most {max(seconds):.1f}")


def _index(traces: Traces) -> float:
    return float(anomaly_index(traces.sizes("patch")).max())


def _smallest(traces: Traces) -> int:
    return int(traces.sizes("patch").argmin())


if __name__ == "__main__":
    main()
