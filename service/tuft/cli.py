"""`tuft`: start the service on this machine."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tuft import __version__
from tuft.config import ServiceConfig, load_config
from tuft.demo_model import demo_model
from tuft.environment import EX_CONFIG
from tuft.errors import ConfigError, TuftError

LOCAL_KEY = "tml-local-dev-key"
# How soon a child that died is noticed.
_LOOK_EVERY_S = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0 after a requested stop, 78 for a wrong configuration, 1 else."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["store"]:
        return _store(words[1:])
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    stop = threading.Event()

    def request_stop(_signum: int, _frame: FrameType | None) -> None:
        stop.set()
        # A start that is still under way ends here; the tree is taken down in `finally`.
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    try:
        return _serve(args, stop)
    except KeyboardInterrupt:
        return 0
    except ConfigError as error:
        print(f"tuft: {error.message}", file=sys.stderr)
        return EX_CONFIG
    except TuftError as error:
        print(f"tuft: {error.message}", file=sys.stderr)
        return 1


def _store(words: Sequence[str]) -> int:
    try:
        from tuft.store_tools import cli
    except ModuleNotFoundError as error:
        raise SystemExit(f"tuft: {_not_installed(error)}") from error
    return cli.main(words)


def _not_installed(error: ModuleNotFoundError) -> str:
    return (
        f"the service's packages are not installed ({error.name} is missing); "
        "install them: pip install 'tuft-pipelines[service]'"
    )


def _serve(args: argparse.Namespace, stop: threading.Event) -> int:
    try:
        from tuft.supervisor import Supervisor
        from tuft.supervisor.tree import free_port
    except ModuleNotFoundError as error:
        raise ConfigError(_not_installed(error)) from error
    config = (
        load_config(args.model_config)
        if args.model_config
        else ServiceConfig(supported_models=[demo_model()])
    )
    port = args.port or free_port()
    supervisor = Supervisor(
        config,
        checkpoint_dir=args.checkpoint_dir,
        host=args.host,
        port=port,
        log_dir=args.log_dir or _home("XDG_STATE_HOME", ".local/state") / "logs" / str(port),
        say=lambda line: print(f"tuft: {line}", flush=True),
    )
    try:
        supervisor.start()
        print(_how_to_connect(supervisor.base_url, config), flush=True)
        while not stop.wait(_LOOK_EVERY_S):
            supervisor.run_once()
        return 0
    finally:
        # A second Ctrl-C ends the children at once, and leaves none behind.
        signal.signal(signal.SIGINT, lambda *_: supervisor.hurry())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("tuft: stopping", flush=True)
        supervisor.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tuft",
        description="A persistent, multi-tenant fine-tuning service that speaks the Tinker API.",
        epilog="Without --model-config the demo model (SmolLM2-135M-Instruct) is served. "
        "`tuft store --help` tells how to look at a store, save it and read it back.",
    )
    parser.add_argument("--version", action="version", version=f"tuft {__version__}")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=8080, help="port to listen on, 0 takes a free one (%(default)s)"
    )
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="models.yaml")
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        metavar="DIR",
        default=_home("XDG_DATA_HOME", ".local/share") / "checkpoints",
        help="folder for checkpoints, unless models.yaml names an object store (%(default)s)",
    )
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="folder for the logs")
    parser.add_argument(
        "--log-level", default="warning", choices=["debug", "info", "warning", "error"]
    )
    return parser


def _how_to_connect(base_url: str, config: ServiceConfig) -> str:
    model = config.supported_models[0].model_name
    key = LOCAL_KEY if not config.api_keys else "<one of your api_keys>"
    others = ", ".join(entry.model_name for entry in config.supported_models[1:])
    return f"""
TuFT is ready.

  URL    {base_url}
  key    {key}
  model  {model}{f"  (also: {others})" if others else ""}

Try it in Python:

import tinker
training = tinker.ServiceClient(base_url="{base_url}", api_key="{key}").create_lora_training_client(base_model="{model}", rank=8).result()
tokenizer, sampler = training.get_tokenizer(), training.save_weights_and_get_sampling_client().result()
sample = sampler.sample(tinker.ModelInput.from_ints(tokenizer.encode("The capital of France is")), 1, tinker.SamplingParams(max_tokens=8, temperature=0.0)).result()
print(tokenizer.decode(sample.sequences[0].tokens))

Ctrl-C stops it.
"""


def _home(variable: str, default: str) -> Path:
    """Our folder below an XDG base directory."""
    return Path(os.environ.get(variable) or Path.home() / default) / "tuft"


if __name__ == "__main__":
    sys.exit(main())
