"""Time of labelling captions by `CaptionLabeler`, against comparing each run of words with the terms of each class.

python benchmarks/caption_labeler.py [--captions N] [--classes N] [--blocks N]

Class terms are one to three made-up words, with a synonym each; captions are twelve words, of which a half names a
class. The slow way, which looks through a list of sets of terms as the authors' code looks through a list of lists, is
timed on a few captions, and both ways must give the same labels there.
"""

import argparse
import random
import statistics
import time

import torch

from paperweight.robustness.data_budget import CaptionLabeler, clean_caption, singular

FEW = 200


def slowly(captions: list[str], terms: list[set[str]]) -> list[int]:
    """Give the first class of each caption by a search through all classes."""
    found: list[int] = []
    for caption in captions:
        words = [singular(word) for word in clean_caption(caption).split()]
        runs = (" ".join(words[start : start + size]) for start in range(len(words)) for size in (1, 2, 3))
        found.append(next((index for run in runs for index, names in enumerate(terms) if run in names), -1))
    return found


def main() -> None:
    """Print seconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--blocks", type=int, default=3)
    given = parser.parse_args()
    draw = random.Random(0)
    syllables = [first + second for first in "bdfgklmnprtv" for second in "aeiou"]
    words = ["".join(draw.choices(syllables, k=3)) for _ in range(20_000)]
    names = [[" ".join(draw.choices(words, k=draw.randint(1, 3))) for _ in range(2)] for _ in range(given.classes)]
    captions: list[str] = []
    for _ in range(given.captions):
        said = draw.choices(words, k=12)
        if draw.random() < 0.5:
            said[draw.randrange(12)] = draw.choice(draw.choice(names)).capitalize() + ","
        captions.append(" ".join(said))
    labels = torch.zeros(0)
    seconds: list[float] = []
    ratios: list[float] = []
    for _ in range(given.blocks):
        started = time.process_time()
        labeler = CaptionLabeler([", ".join(pair) for pair in names])
        labels = labeler.label(captions)
        seconds.append(time.process_time() - started)
        terms: list[set[str]] = [set() for _ in names]
        for index, pair in enumerate(names):
            for name in pair:
                for order in (name.split(), name.split()[::-1]):
                    terms[index] |= {" ".join(order), "".join(order)}
        started = time.process_time()
        slow = slowly(captions[:FEW], terms)
        ratios.append((time.process_time() - started) / FEW * given.captions / seconds[-1])
        assert slow == labels[:FEW].tolist()
    print(f"{given.captions} captions, {given.classes} classes: {statistics.median(seconds):.2f} s of computing time")
    print(f"  labelled: {(labels >= 0).double().mean():.2f}; slow search / this: {statistics.median(ratios):.0f}")


if __name__ == "__main__":
    main()
