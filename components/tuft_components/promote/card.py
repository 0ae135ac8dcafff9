"""The model card of a published version, and the word on one that was not published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuft_components.promote.gate import Verdict


@dataclass(frozen=True)
class Card:
    """What a card tells. Nothing of it depends on when it is written."""

    name: str
    version: str
    uri: str
    base_model: str
    source: str
    parent: str
    steps: int
    lora: Mapping[str, Any]
    verdict: Verdict
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    merged: bool = False

    def text(self) -> str:
        front = {
            "library_name": "peft",
            "base_model": self.base_model,
            "tags": ["lora", "tuft"],
            "pipeline_tag": "text-generation",
        }
        lines = [f"{name}: {json.dumps(value)}" for name, value in front.items()]
        trains = [part for part in ("attn", "mlp", "unembed") if self.lora.get(f"train_{part}")]
        facts = {
            "Base model": f"`{self.base_model}`",
            "Trained weights": f"`{self.source}`",
            "Training began from": f"`{self.parent}`" if self.parent else "the base model",
            "Optimizer steps": str(self.steps),
            "LoRA": f"rank {self.lora.get('rank')}, alpha {self.lora.get('alpha'):g}, "
            f"on {', '.join(trains)}",
            "Gate": self.verdict.why,
            **{name: f"{value:g}" for name, value in self.metrics.items()},
        }
        table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
        parts = [
            "---\n" + "\n".join(lines) + "\n---",
            f"# {self.name} {self.version}",
            f"A LoRA adapter in PEFT's format, published at `{self.uri}`.",
            f"| | |\n|---|---|\n{table}",
            self.notes,
            "## Load it\n\n" + _LOADING.format(base=self.base_model),
        ]
        if self.merged:
            parts.append(_MERGED)
        return "\n\n".join(part for part in parts if part) + "\n"


_LOADING = """With this folder on your disk as `FOLDER`:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "FOLDER")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```

`manifest.json` has the size and the sha256 of each file."""

_MERGED = """`merged/` is the base model with the adapter added to its weights, for those who serve \
without adapters: `AutoModelForCausalLM.from_pretrained("FOLDER/merged")`."""


def refusal(name: str, source: str, verdict: Verdict) -> str:
    """In place of a card."""
    return f"# {name}: not promoted\n\n`{source}` was not published: {verdict.why}.\n"
