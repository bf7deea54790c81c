"""A model of the small text-to-image world that never saw a concept: what an attack teaches it was not remembered."""

from torch import Tensor

from paperweight.data import CaptionedImages
from paperweight.loops.text_to_image import fit_text_to_image
from paperweight.studies.unlearning._erasure import Chosen, Erasure

__all__ = ["never_trained"]


def never_trained(task: Erasure) -> Chosen:
    """Give a model that was trained as that of the world was, on its images but those of the erased concept."""
    shared, spec, train = task.setting.shared(f"text world without {task.word}"), task.model.spec, task.world.train
    keep = (~task.shows(train)).nonzero()[:, 0]
    rest = CaptionedImages(
        train.images[keep],
        tuple(train.captions[row] for row in keep.tolist()),
        {name: labels[keep] for name, labels in train.labels.items()},
        train.vocabulary,
    )

    def build() -> dict[str, Tensor]:
        model, _ = fit_text_to_image(
            shared.initialised(spec.build),
            rest,
            steps=shared.pick(smoke=20, desk=1400, gpu=12_000),
            text_steps=shared.pick(smoke=10, desk=300, gpu=2000),
            generator=shared.generator("batches"),
        )
        return model.state_dict()

    model = shared.initialised(spec.build)
    model.load_state_dict(shared.cached("model", build))
    return Chosen(model.eval().requires_grad_(False))
