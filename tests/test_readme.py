"""The code that the README shows runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_a_method_alone_runs_and_learns():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    alone = next(block for block in blocks if "LaplacianSmoothingSGD" in block)
    names: dict[str, object] = {}
    exec("import torch; torch.manual_seed(0)\n" + alone, names)
    loss = eval("torch.nn.functional.cross_entropy(model(x), y).item()", names)
    assert loss < 1.0986  # that of a constant guess among three classes
