#!/usr/bin/env bash
# foolbox 3.3.4 with torch 2.13.0, on a CPU.
#
# An attack is asked for adversarial images of a model and returns them. One would guess that the model is left as it was, since
# gradients of the images are all that it needs. Its gradients with respect to the weights stay behind, and add up from attack to
# attack. In adversarial training in the usual order (zero_grad, attack, loss, backward, step) the step then follows the sum of the
# training gradient and those of all steps of the attack: sixteen times as long in this case, which adaptive optimizers hide and plain
# ones turn into another learning rate. Calling zero_grad after the attack, or freezing the weights meanwhile, avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3" "foolbox==3.3.4"
"$folder/venv/bin/python" - <<'EOF'
import foolbox
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
weight = model[1].weight
images, labels = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 0, 1, 0])
wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))


def attack() -> torch.Tensor:
    torch.manual_seed(1)
    return foolbox.attacks.LinfPGD(steps=3, random_start=False)(wrapped, images, labels, epsilons=0.1)[1]


assert weight.grad is None
adversarial = attack()
once = weight.grad.clone()
attack()
twice = weight.grad.clone()

model.zero_grad()
nn.functional.cross_entropy(model(adversarial), labels).backward()
training = weight.grad.clone()
model.zero_grad()
attack()
nn.functional.cross_entropy(model(adversarial), labels).backward()
cosine = nn.functional.cosine_similarity(weight.grad.flatten(), training.flatten(), dim=0).item()
print("foolbox", foolbox.__version__)
print(f"norm of the weights' gradient after one attack {once.norm():.3f}, after two {twice.norm():.3f}")
print(f"training gradient {training.norm():.3f}; after zero_grad, attack, backward {weight.grad.norm():.3f}, cosine {cosine:.3f}")
assert once.norm() > 0
assert torch.allclose(twice, 2 * once, rtol=1e-4)
assert weight.grad.norm() > 5 * training.norm()
EOF
