"""Whether a decoded training batch suits its model: everything that could spoil a gradient.

Each message names the datum and the field. What a request says of shapes was checked when it
was decoded (tuft.contracts.wire); here it meets the model and the loss.
"""

from __future__ import annotations

import math

import numpy as np

from tuft.contracts.losses import LOSSES, LossSpec
from tuft.contracts.records import ModelInfo
from tuft.contracts.wire import Array, ForwardBackwardRequest, LossConfig, Row
from tuft.errors import InvalidRequest


def check_batch(request: ForwardBackwardRequest, model: ModelInfo, max_datums: int) -> None:
    """Raise InvalidRequest unless every row can be trained with the loss on the model."""
    spec = check_loss(request.loss_fn, request.loss_config)
    if not request.rows:
        raise InvalidRequest("data is empty; send at least one datum")
    if len(request.rows) > max_datums:
        raise InvalidRequest(
            f"data has {len(request.rows)} datums; at most {max_datums} go into one request"
        )
    for index, row in enumerate(request.rows):
        _check_row(f"data[{index}]", row, request.loss_fn, spec, model)


def check_loss(name: str, config: LossConfig) -> LossSpec:
    """The loss's specification, where its name and configuration are served."""
    spec = LOSSES.get(name)
    if spec is None:
        raise InvalidRequest(
            f"loss_fn {name!r} is not served; this service has: {', '.join(sorted(LOSSES))}"
        )
    for key, value in config.items():
        if key not in spec.config:
            known = ", ".join(sorted(spec.config)) or "none"
            raise InvalidRequest(
                f"loss_fn_config has the unknown key {key!r}; {name} takes: {known}"
            )
        if isinstance(value, str) or not math.isfinite(value) or value < 0:
            raise InvalidRequest(
                f"loss_fn_config[{key!r}] is {value!r}; it must be a finite number of at least 0"
            )
    bounds = {**spec.config, **config}
    low, high = bounds.get("clip_low_threshold"), bounds.get("clip_high_threshold")
    if low is not None and high is not None and float(low) > float(high):
        raise InvalidRequest(
            f"loss_fn_config: clip_low_threshold {low} is above clip_high_threshold {high}; both "
            "are bounds on the probability ratio itself, such as 0.8 and 1.2"
        )
    return spec


def check_tokens(where: str, tokens: Array, vocab_size: int) -> None:
    """Raise InvalidRequest unless all ids are in the vocabulary; names the first that is not."""
    ids = tokens.astype(np.int64)
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        shown = ", ".join(str(i) for i in place)
        raise InvalidRequest(
            f"{where}[{shown}] is {int(ids[place])}; token ids of this model are "
            f"0 to {vocab_size - 1}"
        )


def _check_row(where: str, row: Row, loss_fn: str, spec: LossSpec, model: ModelInfo) -> None:
    length = len(row.tokens)
    if length == 0:
        raise InvalidRequest(f"{where}.model_input is empty; it needs at least one token")
    if length > model.max_model_len:
        raise InvalidRequest(
            f"{where}.model_input has {length} tokens; {model.model_name} takes at most "
            f"{model.max_model_len}"
        )
    check_tokens(f"{where}.model_input", row.tokens, model.vocab_size)
    missing = sorted(spec.required - row.inputs.keys())
    if missing:
        raise InvalidRequest(f"{where}.loss_fn_inputs lacks {missing[0]!r}, which {loss_fn} needs")
    unknown = sorted(row.inputs.keys() - spec.required - spec.optional)
    if unknown:
        takes = ", ".join(sorted(spec.required | spec.optional))
        raise InvalidRequest(
            f"{where}.loss_fn_inputs has {unknown[0]!r}, which {loss_fn} does not take; "
            f"it takes: {takes}"
        )
    targets = row.inputs["target_tokens"]
    _check_targets(f"{where}.loss_fn_inputs['target_tokens']", targets, length, spec, model)
    for name in sorted(row.inputs.keys() - {"target_tokens"}):
        _check_values(f"{where}.loss_fn_inputs[{name!r}]", row.inputs[name], targets)


def _check_targets(
    where: str, targets: Array, length: int, spec: LossSpec, model: ModelInfo
) -> None:
    if targets.dtype != np.int64:
        raise InvalidRequest(f"{where} is {targets.dtype}; it must be int64")
    if targets.ndim not in ((1, 2) if spec.allows_k else (1,)):
        shapes = "[N] or [N, K]" if spec.allows_k else "[N]"
        raise InvalidRequest(f"{where} has shape {list(targets.shape)}; it must be {shapes}")
    if len(targets) != length:
        raise InvalidRequest(
            f"{where} has {len(targets)} positions, model_input has {length}; position i is the "
            "target after token i, so both have the same length"
        )
    if targets.size == 0:
        raise InvalidRequest(f"{where} has shape {list(targets.shape)}: K must be at least 1")
    check_tokens(where, targets, model.vocab_size)


def _check_values(where: str, values: Array, targets: Array) -> None:
    if values.dtype != np.float32:
        raise InvalidRequest(f"{where} is {values.dtype}; it must be float32")
    if values.shape != targets.shape:
        raise InvalidRequest(
            f"{where} has shape {list(values.shape)}; it must be that of target_tokens, "
            f"{list(targets.shape)}"
        )
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        shown = ", ".join(str(i) for i in place)
        raise InvalidRequest(f"{where}[{shown}] is {values[place]}; all values must be finite")
