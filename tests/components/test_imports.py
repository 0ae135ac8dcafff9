"""Steps' images have neither torch nor kfp: nothing may import them at the wrong time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_model import build_tokenizer
from tuft_components.steps import STEP_NAMES

_BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not in a step's image")

sys.meta_path.insert(0, Blocker())
"""
_SERVICE = ("torch", "deepspeed", "peft", "fastapi", "redis", "tuft")


def _python(code: str, *blocked: str) -> str:
    """Run `code` where the packages `blocked` can't be imported; returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKER.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_step_is_imported_without_torch_kfp_and_the_service(name: str) -> None:
    _python(f"from tuft_components.steps import load_step; load_step({name!r})", *_SERVICE, "kfp")


def test_importing_the_package_is_light() -> None:
    code = "import tuft_components, tuft_sdk; print(sorted(sys.modules))"
    modules = _python(code, *_SERVICE, "kfp", "tinker", "transformers", "pyarrow")
    assert "tuft_components" in modules


def test_feedback_does_without_the_service_sdks() -> None:
    code = "from tuft_components.feedback.step import STEP"
    _python(code, *_SERVICE, "kfp", "tinker", "transformers")


def test_the_sdks_are_used_without_torch() -> None:
    code = "import tuft_sdk.plans, tuft_sdk._sdk_internals; from tuft_components.update import assembly"
    _python(code, *_SERVICE, "kfp")


def test_components_compile_without_torch_and_the_service() -> None:
    imports = "; ".join(f"import tuft_components.{name}.component" for name in STEP_NAMES)
    _python(imports, *_SERVICE, "tinker", "transformers")


def test_a_steps_process_keeps_torch_away_from_the_clients(tmp_path: Path) -> None:
    """Where torch is installed, importing it would cost each step seconds."""
    build_tokenizer().save_pretrained(tmp_path)
    code = f"""
from pathlib import Path
from tuft_components.processes import enter_step_process, import_clients
from tuft_sdk.tokenizers import load_tokenizer
enter_step_process()
import_clients(tokenizers=True)
tokenizer = load_tokenizer(Path({str(tmp_path)!r}))
messages = [dict(role="user", content="a")]
tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
import tinker
from tinker import types
print("torch" in sys.modules)
import torch
print(torch.ones(1).item())
"""
    assert _python(code).split() == ["False", "1.0"]


def test_outside_a_steps_process_nothing_is_hidden() -> None:
    code = """
from tuft_components.processes import import_clients
import_clients(tokenizers=False)
import tinker.types.datum
print(tinker.types.datum._HAVE_TORCH)
"""
    assert _python(code).split() == ["True"]
