"""A stored task as a LoRA adapter that peft loads, and what of the task the adapter leaves out."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from tvcodec.checkpoint import (
    CheckpointSource,
    Plan,
    dtype_name,
    open_checkpoint,
    plan_bytes,
    refuse_inputs,
    save_safetensors,
)
from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.decoder import Bank
from tvcodec.decoding.modules import MATRICES, kind_of, matching, target_modules, within
from tvcodec.decoding.stored_task import StoredTask
from tvcodec.errors import CheckpointError, TvqError
from tvcodec.file.durable import durable_directory
from tvcodec.maths.dense import squared_norm
from tvcodec.maths.lowrank import Factors
from tvcodec.maths.product import Product
from tvcodec.maths.spectrum import spectrum
from tvcodec.parameter.parts import Parts

FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")

_PREFIX = "base_model.model."
# Models of transformers that store linear layers transposed (Conv1D), and what those are called.
_TRANSPOSED_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
_TRANSPOSED = re.compile(r".*\.(c_attn|q_attn|c_proj|c_fc)\.weight")


@dataclass(slots=True)
class Exported:
    """What an adapter holds of a task: the number of its LoRA `modules` and their largest `rank`,
    the modules that are saved whole, the bytes of its tensors. `energy` has each kind of parameter
    as a share of the squared norm of the task vector, `left_out` the share that is missing."""

    path: str
    task: str
    modules: int = 0
    rank: int = 0
    saved: tuple[str, ...] = ()
    bytes: int = 0
    energy: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def lost(self) -> float:
        """The share of the task vector's energy that the adapter does not carry."""
        return sum(self.left_out.values())


def export_adapter(
    bank: Bank,
    task: str,
    base_model: CheckpointSource,
    path: str | os.PathLike[str],
    *,
    rank: int | None = None,
    modules_to_save: Sequence[str] = (),
    force: bool = False,
    progress: Callable[[int], None] = lambda values: None,
) -> Exported:
    """Writes the directory of a LoRA adapter that makes the base model what the task made of it,
    as far as matrices of low rank can.

    The factors are those that the file holds. With `rank`, they have that rank at most, and
    matrices whose task vectors are stored in other ways too are approximated to that rank.
    Modules whose names a glob in `modules_to_save` matches are saved whole.

    Raises BaseModelMismatch, CheckpointError where the base model does not say how its layers are
    stored, TvqError where nothing can be exported, or `path` exists and `force` is not set.
    """
    exporting = _Exporting(bank, task, base_model, rank, modules_to_save)
    refuse_inputs(path, exporting.inputs)
    with durable_directory(path, force, _foreign) as directory:
        tensors, config = exporting.run(progress)
        plan = [(n, dtype_name(t.dtype), tuple(t.shape)) for n, t in tensors.items()]
        save_safetensors(directory / FILES[1], plan, tensors.__getitem__)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (directory / FILES[0]).write_text(text, encoding="utf-8")
    return exporting.report(os.fspath(path), plan)


def _foreign(directory: Path) -> Iterator[Path]:
    """What an adapter's directory would not hold."""
    for entry in directory.iterdir():
        if entry.name not in FILES or not entry.is_file():
            yield entry


class _Exporting:
    def __init__(
        self,
        bank: Bank,
        task: str,
        base_model: CheckpointSource,
        rank: int | None,
        modules_to_save: Sequence[str],
    ) -> None:
        self.stored = StoredTask(bank.archive, task)
        self.base = BaseModel(bank.archive, open_checkpoint(base_model))
        self.inputs = {Path(bank.archive.path), *self.base.checkpoint.paths}
        self.called = os.fspath(base_model) if isinstance(base_model, str | os.PathLike) else None
        self.rank = rank
        self.parameters = bank.archive.root.base_model
        self.tau = bank.task_vector(task, self.base.checkpoint)
        self.fine_tune = bank.decode(task, self.base.checkpoint)
        self.saved = matching(self.fine_tune, modules_to_save)
        self.factors: dict[str, Product] = {}  # by module, in the order of peft: [out, r], [in, r]
        self.energy: dict[str, float] = {}
        self.lost: dict[str, float] = {}

    def run(self, progress: Callable[[int], None]) -> tuple[dict[str, Tensor], dict[str, object]]:
        """The adapter's tensors and settings."""
        for number, parameter in enumerate(self.parameters):
            if self.stored.changed(number) and self.stored.stored_as(number) == number:
                self._take(number)
            progress(parameter.count)
        tensors = {
            f"{_PREFIX}{module}.{name}": tensor.contiguous()
            for module, product in self.factors.items()
            for name, tensor in (
                ("lora_A.weight", product.right.T),
                ("lora_B.weight", product.left),
            )
        }
        for name in self.fine_tune:
            if within(name, self.saved):
                tensors[f"{_PREFIX}{name}"] = self.fine_tune[name].contiguous()
        if not self.factors:
            hint = "no matrix of it is stored as factors: give --rank, such as --rank 16"
            raise TvqError(f"task {self.stored.name!r}: got nothing for LoRA to carry", hint=hint)
        return tensors, self._config()

    def _take(self, number: int) -> None:
        """Notes what the adapter holds of a parameter."""
        parameter = self.parameters[number]
        kind = kind_of(parameter.name, parameter.dims)
        self.base.tensor(number)  # which has to be the one that the file was made with
        parts = self.stored.parts(number)
        assert parts is not None
        factors = _factors(parts, parameter.extent.rows) if kind == MATRICES else None
        whole = factors is not None and all(isinstance(item, Factors) for item in parts.contents)
        tau = factors if whole and factors else self.tau[parameter.name]
        energy = tau.squared_norm() if isinstance(tau, Product) else squared_norm(tau)
        self.energy[kind] = self.energy.get(kind, 0.0) + energy
        self.lost.setdefault(kind, 0.0)
        if within(parameter.name, self.saved) or not energy:
            return
        carried = self._carried(tau, factors) if kind == MATRICES else None
        if carried is None or not carried.rank:
            self.lost[kind] += energy
            return
        self.lost[kind] += _left_out(tau, carried)
        module = parameter.name.removesuffix(".weight")
        self.factors[module] = carried.T if self._transposed(parameter.name) else carried

    def _carried(self, tau: Tensor | Product, factors: Product | None) -> Product | None:
        """What stands for a task vector, whose stored factors are `factors`."""
        if isinstance(tau, Tensor) and self.rank is not None:
            return _approximated(tau, self.rank)
        if factors is None:
            return None
        return factors.truncated(factors.rank if self.rank is None else self.rank)

    def _transposed(self, name: str) -> bool:
        """Whether a parameter is [in, out], which only the base model's settings tell."""
        if not _TRANSPOSED.fullmatch(name):
            return False
        directory = self.base.directory
        path = None if directory is None else directory / "config.json"
        if path is not None and path.is_file():
            return _model_type(path) in _TRANSPOSED_MODELS
        if name.endswith(".c_attn.weight"):
            raise CheckpointError(
                f"{self.base.checkpoint.label}: {name!r}: expected a config.json that tells how"
                " such layers are stored, got none",
                "give the base model's directory, with its config.json",
            )
        return False

    def _config(self) -> dict[str, object]:
        """What adapter_config.json says; a scaling of 1 everywhere."""
        ranks = {module: product.rank for module, product in self.factors.items()}
        usual = Counter(ranks.values()).most_common(1)[0][0]
        others = {f"^{re.escape(module)}": r for module, r in ranks.items() if r != usual}
        return {
            "alpha_pattern": others,
            "base_model_name_or_path": self.called,
            "bias": "none",
            "fan_in_fan_out": any(map(self._transposed, (f"{module}.weight" for module in ranks))),
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": usual,
            "lora_dropout": 0.0,
            "modules_to_save": list(self.saved) or None,
            "peft_type": "LORA",
            "r": usual,
            "rank_pattern": others,
            "target_modules": target_modules(
                ranks, [parameter.name for parameter in self.parameters]
            ),
            "task_type": None,
            "use_dora": False,
            "use_rslora": False,
        }

    def report(self, path: str, plan: Plan) -> Exported:
        """What became of the task."""
        index, total = self.stored.index, sum(self.energy.values())
        notes = [
            f"{kept.parameter}: kept whole in the file, not in the adapter" for kept in index.added
        ]
        changed = [record.parameter for record in index.replaced]
        for number in [*changed, *(record.parameter for record in index.rows)]:
            name = self.parameters[int(number)].name
            if not within(name, self.saved):
                notes.append(f"{name}: of another shape or kind, not in the adapter")
        for number, of in dict(index.aliases).items():
            name, twin = self.parameters[number].name, self.parameters[of].name
            if twin.removesuffix(".weight") in self.factors and not within(name, self.saved):
                notes.append(f"{name}: tied to {twin}, which alone the adapter changes")
        return Exported(
            path,
            self.stored.name,
            len(self.factors),
            max(product.rank for product in self.factors.values()),
            self.saved,
            plan_bytes(plan),
            {kind: energy / total for kind, energy in self.energy.items()},
            {kind: self.lost[kind] / total for kind in self.energy},
            notes,
        )


def _factors(parts: Parts, rows: int) -> Product | None:
    """The factors among parts, as one product; None where there are none."""
    products = [item.product() for item in parts.contents if isinstance(item, Factors)]
    if not products or not parts.by_row:
        return None
    product = Product.total(products)
    if parts.kept is None:
        return product
    left = product.left.new_zeros(rows, product.rank).index_copy_(0, parts.kept, product.left)
    return Product(left, product.right)


def _approximated(tau: Tensor, rank: int) -> Product:
    """The closest product of that rank at most."""
    tall = tau if tau.shape[0] >= tau.shape[1] else tau.T
    known = spectrum(tau, 0.0)
    right, root = known.vectors[:, :rank], known.sigma[:rank].sqrt()
    product = Product(tall @ right / root, right * root)
    return product if tall is tau else product.T


def _left_out(tau: Tensor | Product, carried: Product) -> float:
    """Squared norm of what of a task vector is not carried."""
    if isinstance(tau, Product):
        return tau.minus(carried).squared_norm()
    return squared_norm(tau - carried.dense())


def _model_type(path: Path) -> str | None:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {type(error).__name__}") from error
    return config.get("model_type") if isinstance(config, Mapping) else None
