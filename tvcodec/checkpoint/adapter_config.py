"""What a peft adapter's adapter_config.json says of its LoRA; whatever else it asks for is refused.

Nothing may be ignored that changes what the adapter does, so a setting has to be known to have no
such effect, or to be off.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tvcodec.errors import CheckpointError

CONFIG_NAME = "adapter_config.json"

_MAX_CONFIG = 16 << 20
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
_READ |= {"fan_in_fan_out", "init_lora_weights"}
# Where the adapter sits and what else it saves is what its tensors say; the rest is for training.
_WITHOUT_EFFECT = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias"),
    *("modules_to_save", "lora_dropout", "eva_config", "loftq_config", "runtime_config"),
    *("megatron_core", "qalora_group_size", "base_model_name_or_path", "revision", "task_type"),
    *("inference_mode", "auto_mapping", "peft_version"),
}
# Others change the base model's weights when they start.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_MERGE = "merge it with peft (merge_and_unload), save the model and encode that"
_MAX_PATTERN = 512
_REPEATS = re.compile(r"[*+{]")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Ranks and scaling of an adapter's modules, by the rules of peft."""

    path: Path
    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    fan_in_fan_out: bool

    def rank(self, module: str) -> int:
        """What the rank of a module's factors should be."""
        return int(_of_pattern(self.rank_pattern, module, self.r))

    def scaling(self, module: str, rank: int) -> float:
        """What the product of a module's factors is multiplied by."""
        alpha = float(_of_pattern(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(directory: Path) -> LoraConfig:
    """CheckpointError unless the adapter in `directory` is plain LoRA."""
    path = directory / CONFIG_NAME
    config = _read(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: expected an adapter of type LORA, got {kind!r:.40}", _MERGE)
    if (start := config.get("init_lora_weights")) not in _STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights: expected a start that leaves the base model as it is, got"
            f" {start!r:.40}",
            "convert it to plain LoRA when saving (peft: path_initial_model_for_weight_conversion),"
            f" or {_MERGE}",
        )
    for key in sorted(config.keys() - _READ - _WITHOUT_EFFECT):
        if config[key]:
            raise CheckpointError(
                f"{path}: expected plain LoRA, got {key!r:.60} = {config[key]!r:.60}", _MERGE
            )
    return LoraConfig(
        path,
        int(_number(path, "r", config.get("r", 8), least=1)),
        _number(path, "lora_alpha", config.get("lora_alpha", 8)),
        {key: int(value) for key, value in _pattern(path, config, "rank_pattern", 1).items()},
        _pattern(path, config, "alpha_pattern", -math.inf),
        bool(config.get("use_rslora")),
        bool(config.get("fan_in_fan_out")),
    )


def _read(path: Path) -> dict[str, object]:
    if path.stat().st_size > _MAX_CONFIG:
        raise CheckpointError(
            f"{path}: expected at most {_MAX_CONFIG} bytes, got {path.stat().st_size}"
        )
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: expected JSON, got {type(error).__name__}", "fetch the adapter again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected settings, got a {type(config).__name__}")
    return config


def _number(path: Path, what: str, value: object, least: float = -math.inf) -> float:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
    if not sound or value < least:  # type: ignore[operator]  # a number by now
        raise CheckpointError(f"{path}: {what}: expected a number, got {value!r:.40}")
    return float(value)  # type: ignore[arg-type]


def _pattern(path: Path, config: dict[str, object], key: str, least: float) -> dict[str, float]:
    """Module names, or regular expressions for them -> numbers."""
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {key}: expected names with numbers, got {found!r:.40}")
    for name in found:
        if not _harmless(name):
            raise CheckpointError(
                f"{path}: {key}: expected names of modules or simple patterns, got {name!r:.80}",
                "write the modules' full names instead",
            )
    return {name: _number(path, key, value, least) for name, value in found.items()}


def _harmless(pattern: str) -> bool:
    """Whether a regular expression compiles and cannot take ages to match: nothing that repeats
    repeats a group."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    nested = re.search(r"\)[*+{]", pattern)
    return len(pattern) <= _MAX_PATTERN and not nested and len(_REPEATS.findall(pattern)) <= 4


def _of_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """The first that matches the end of a module's name from a dot on, as in peft."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
