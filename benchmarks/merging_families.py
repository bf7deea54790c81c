"""Which networks of timm and transformers can be merged: families, the groups found, the error, or why not.

Of each family a small variant gets random weights and statistics. Its groups are traced; a random permutation of them
must keep the function (permuted), and so must the merge of the network with a copy, matched by the activations of two
images (merged). Errors are relative to the largest output. What is refused gives its reason.

    pip install -r benchmarks/requirements-families.txt
    python benchmarks/merging_families.py [FAMILY ...]
"""

import argparse
import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from paperweight.merging import PermutationGraph, merge, permuted

TIMM: dict[str, tuple[str, int, dict[str, int]]] = {
    "resnet": ("resnet18", 64, {}),
    "resnext": ("resnext50_32x4d", 64, {}),
    "resnetv2": ("resnetv2_50", 64, {}),
    "regnet": ("regnety_002", 64, {}),
    "densenet": ("densenet121", 64, {"growth_rate": 8}),
    "dla": ("dla34", 64, {}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "res2net": ("res2net50_26w_4s", 64, {}),
    "mobilenetv2": ("mobilenetv2_050", 64, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "efficientnet": ("efficientnet_b0", 64, {}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "repvgg": ("repvgg_a0", 64, {}),
    "convnext": ("convnext_atto", 64, {}),
    "poolformer": ("poolformer_s12", 64, {}),
    "vit": ("vit_tiny_patch16_224", 224, {"depth": 4}),
    "beit": ("beit_base_patch16_224", 224, {"depth": 2}),
    "swin": ("swin_tiny_patch4_window7_224", 224, {}),
    "mixer": ("mixer_s32_224", 224, {}),
    "xcit": ("xcit_nano_12_p16_224", 224, {}),
}
"""For each family a variant, the height of its images and what makes it smaller."""


def timm_model(name: str) -> tuple[nn.Module, Tensor]:
    """Make the variant of a family with random weights, and two images."""
    import timm

    variant, size, smaller = TIMM[name]
    model = timm.create_model(variant, pretrained=False, num_classes=10, **smaller)
    return model, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def encoder(name: str) -> tuple[nn.Module, Tensor]:
    """Make a small encoder of transformers with random weights, and two sequences or images."""
    import transformers as tf

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = {**small, "vocab_size": 50}
    words = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(0))
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
        "bert": lambda: (tf.BertForSequenceClassification(tf.BertConfig(**text)), words),
        "roberta": lambda: (tf.RobertaForSequenceClassification(tf.RobertaConfig(**text)), words),
        "distilbert": lambda: (
            tf.DistilBertForSequenceClassification(
                tf.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
            ),
            words,
        ),
        "vit": lambda: (
            tf.ViTForImageClassification(tf.ViTConfig(**small, image_size=32, patch_size=8)),
            image,
        ),
    }
    return made[name]()


def shake(model: nn.Module) -> None:
    """Move weights and statistics away from where they start, such as scales of 0."""
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            noise = torch.rand(2, *value.shape, generator=generator).to(value)
            low = 0 if (value >= 0).all() else 0.5
            value.mul_(0.75 + 0.5 * noise[0]).add_(0.3 * value.abs().mean().clamp(min=0.1) * (noise[1] - low))


@torch.no_grad()
def outcome(model: nn.Module, inputs: Tensor) -> str:
    """Trace, permute and merge a network; give groups and errors as cells of a table."""
    model.eval()
    shake(model)
    graph = PermutationGraph.trace(model, inputs)
    before = result(model, inputs)
    other = copy.deepcopy(model)
    other.load_state_dict(permuted(model.state_dict(), graph, graph.random(torch.Generator().manual_seed(2))))
    merged, _ = merge([model, copy.deepcopy(model)], graph, data=[inputs], repair=None)
    scale = before.abs().max()
    errors = [((result(part, inputs) - before).abs().max() / scale).item() for part in (other, merged)]
    units = sum(group.size for group in graph.groups)
    return f"{len(graph.groups)} | {units} | {errors[0]:.0e} | {errors[1]:.0e} |"


def result(model: nn.Module, inputs: Tensor) -> Tensor:
    """Give the logits."""
    value = model(inputs)
    return value if isinstance(value, Tensor) else value.logits


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", help="all where left out")
    families = parser.parse_args().families
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = [(f"timm {name}, `{TIMM[name][0]}`", name, timm_model) for name in TIMM]
    rows += [(f"transformers {name}", name, encoder) for name in ("bert", "roberta", "distilbert", "vit")]
    print("| family | groups | units | permuted | merged |\n|---|---|---|---|---|")
    for title, name, make in rows:
        if families and name not in families:
            continue
        torch.manual_seed(0)
        try:
            cells = outcome(*make(name))
        except ValueError as error:
            cells = f"refused: {error} | | | |"
        print(f"| {title} | {cells}", flush=True)


if __name__ == "__main__":
    main()
