#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# Convolutional networks are often stored with channels last (model.to(memory_format=torch.channels_last)). One would guess that
# every optimizer of torch.optim steps on such weights as on others: SGD and Adam do. LBFGS does not: it views all
# weights as one vector when it adds a step, which needs contiguous ones, and its first step ends in a RuntimeError about strides that
# names neither a parameter nor the optimizer. It had read the gradients without a complaint, so that the first
# evaluation works. The same holds for a parameter that is a transposed view.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
"$folder/venv/bin/python" - <<'EOF'
import torch
from torch import nn

images, labels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])


def outcome(kind: type[torch.optim.Optimizer], memory_format: torch.memory_format) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).to(memory_format=memory_format)
    optimizer = kind(model.parameters(), lr=0.1)
    evaluations = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        evaluations.append(loss.item())
        return loss

    try:
        optimizer.step(closure)
    except RuntimeError as error:
        return f"RuntimeError after {len(evaluations)} evaluation: {str(error)[:60]}..."
    return "steps"


seen = {
    (kind.__name__, str(memory_format)): outcome(kind, memory_format)
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS)
    for memory_format in (torch.contiguous_format, torch.channels_last)
}
print("torch", torch.__version__)
for (kind, memory_format), what in seen.items():
    print(f"{kind:6} {memory_format:24} {what}")
failed = [key for key, what in seen.items() if what != "steps"]
assert failed == [("LBFGS", "torch.channels_last")]
assert "after 1 evaluation" in seen[failed[0]]
EOF
