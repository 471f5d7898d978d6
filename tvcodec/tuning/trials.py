"""One task encoded by itself at one setting after another: sizes and scores of what comes back."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvcodec.checkpoint import Checkpoint, fingerprint, own_companions
from tvcodec.decoding.decoder import Bank
from tvcodec.decoding.model import Model
from tvcodec.encoding.encoder import encode
from tvcodec.encoding.summary import Summary
from tvcodec.errors import TvqError
from tvcodec.parameter.recipes import EXACT, Recipe
from tvcodec.tuning import curve
from tvcodec.tuning.curve import Curve, Point
from tvcodec.tuning.ledger import SIZE, Key, Ledger
from tvcodec.tuning.search import Spent, smallest

Evaluate = Callable[[Model, str], float]
FINE_TUNE = "fine-tune"  # `metric` of the point that is told of a fine-tune itself


@dataclass(frozen=True, slots=True)
class Aim:
    """What is wanted of each task: the share `retain` of the score of its fine-tune, after at most
    `max_evaluations` decoded models."""

    evaluate: Evaluate
    retain: float
    lower_is_better: bool
    max_evaluations: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where tasks are encoded, and where what is found goes; `key` says what scores are of."""

    scratch: Path
    ledger: Ledger
    key: Key
    jobs: int | None
    tell: Callable[[str, Point], None]


@dataclass(frozen=True, slots=True)
class _Described(Recipe):
    """A recipe that says in the task's metadata how it was found."""

    curve: Curve | None = None

    def as_metadata(self) -> dict[str, str]:
        found = curve.as_metadata(self.curve) if self.curve else {}
        return {**Recipe.as_metadata(self), **found}


class Trials:
    """The settings tried for one task, against the score of its fine-tune, which is measured first.

    Raises TvqError for one that is not above zero, and what `encode` raises for models that do not
    belong together.
    """

    def __init__(
        self, task: str, base: Checkpoint, fine_tune: Checkpoint, aim: Aim, place: Place
    ) -> None:
        self.task, self.base, self.fine_tune = task, base, fine_tune
        self.aim, self.place = aim, place
        self.values = max(sum(math.prod(base.shape(name)) for name in base.names), 1)
        self._tried: list[tuple[Recipe, Point]] = []
        self._path = place.scratch / f"{task}.tvq"
        self._at_hand: Recipe | None = None  # of what is there
        self._key = {**place.key, "task": task, "fine_tune": digest(fine_tune, self._directory)}
        self.reference = self._reference()
        bits = 8 * fine_tune.stored_bytes / self.values
        place.tell(task, Point(FINE_TUNE, 0.0, 0.0, 0.0, bits, self.reference, 1.0))

    def size(self, recipe: Recipe) -> int:
        """Bytes that the task takes by itself."""
        key = {name: text for name, text in self._key.items() if name != "label"}
        key["settings"] = _settings(recipe)
        if not self.place.ledger.known(SIZE, key):
            self.place.ledger.put(SIZE, key, self._encoded(recipe).tasks[0].bytes)
        return int(self.place.ledger.get(SIZE, key) or 0)

    def search(self) -> tuple[Recipe, Curve]:
        """The smallest setting found that keeps enough, else the exact one, and all that was
        tried."""
        chosen = smallest(self.size, self._passes)
        if chosen is None:
            chosen = EXACT
            self._note(EXACT, self.reference, 1.0)
        tried = sorted(self._tried, key=lambda pair: (pair[1].bits, pair[1].step))
        at = [recipe for recipe, _ in tried].index(chosen)
        points = tuple(point for _, point in tried)
        aim = self.aim
        return chosen, Curve(aim.retain, self.reference, aim.lower_is_better, points, at)

    def write(self, recipe: Recipe, found: Curve) -> Summary:
        """Encodes the task, with what was found in its metadata, to a file of its own."""
        described = _Described(**dataclasses.asdict(recipe), curve=found)
        return self._encoded(described)

    def _passes(self, recipe: Recipe) -> bool:
        if len(self._tried) >= self.aim.max_evaluations:
            raise Spent
        score = self._score(_settings(recipe), lambda: self._decoded(recipe))
        share = self._share(score)
        self._note(recipe, score, share)
        return share >= self.aim.retain

    def _note(self, recipe: Recipe, score: float | None, share: float) -> None:
        bits = 8 * self.size(recipe) / self.values
        how: tuple[str, float, float, float] = ("exact", 0.0, 0.0, 0.0)
        if not recipe.exact:
            how = (recipe.metric, recipe.step, recipe.gain, recipe.factor_step or 0.0)
        point = Point(*how, bits, score, share)
        self._tried.append((recipe, point))
        self.place.tell(self.task, point)

    def _reference(self) -> float:
        def evaluated() -> float:
            names = self.fine_tune.names
            shapes = {n: (self.fine_tune.dtype(n), self.fine_tune.shape(n)) for n in names}
            return self._evaluated(Model(shapes, self.fine_tune.tensor, {}))

        score = self._score(FINE_TUNE, evaluated)
        if score is None or score <= 0:
            got = "no finite number" if score is None else f"{score:g}"
            ledger = self.place.ledger.path
            kept = "" if ledger is None else f"; {ledger} keeps it: delete that if it is wrong"
            raise TvqError(
                f"task {self.task!r}: expected a score of the fine-tune above 0, to keep a share"
                f" of, got {got}",
                hint=f"an accuracy will do, or a loss with --lower-is-better{kept}",
            )
        return score

    def _decoded(self, recipe: Recipe) -> float:
        if self._at_hand != recipe:
            self._encoded(recipe)
        with Bank(self._path) as bank:
            return self._evaluated(bank.decode(self.task, self.base))

    def _evaluated(self, model: Model) -> float:
        """The score of a model, of the kind that the fine-tune is: a directory is measured with its
        own config and tokenizer files, which may differ from the base model's."""
        model.directory = self._directory
        return float(self.aim.evaluate(model, self.task))

    @property
    def _directory(self) -> Path | None:
        """Where those files are; for an adapter, which has none, the base model's."""
        path = self.fine_tune.path
        if path is None or not path.is_dir():
            return None
        return self.fine_tune.directory or self.base.directory

    def _score(self, settings: str, evaluated: Callable[[], float]) -> float | None:
        key = {**self._key, "settings": settings}
        if not self.place.ledger.known("score", key):
            score = evaluated()
            self.place.ledger.put("score", key, score if math.isfinite(score) else None)
        return self.place.ledger.get("score", key)

    def _share(self, score: float | None) -> float:
        if score is None:
            return 0.0
        if not self.aim.lower_is_better:
            return score / self.reference
        if score < 0:
            raise TvqError(
                f"task {self.task!r}: expected a loss of 0 or more, like the fine-tune's"
                f" {self.reference:g}, got {score:g}",
                hint="--lower-is-better is for losses, which are never negative",
            )
        return min(self.reference / score, curve.MOST_SHARE) if score else curve.MOST_SHARE

    def _encoded(self, recipe: Recipe) -> Summary:
        tunes, jobs = {self.task: self.fine_tune}, self.place.jobs
        summary = encode(self.base, tunes, self._path, recipe=recipe, jobs=jobs, force=True)
        self._at_hand = recipe
        return summary


def digest(checkpoint: Checkpoint, directory: Path | None = None) -> str:
    """SHA-256 over names, shapes, dtypes and values of all tensors, and what lies beside weights in
    `directory`, hexadecimal."""
    whole = hashlib.sha256()
    for name in checkpoint.names:
        dtype, shape = checkpoint.dtype(name), checkpoint.shape(name)
        whole.update(fingerprint(name, dtype, shape, checkpoint.tensor(name)))
    beside = own_companions(directory)[0] if directory else {}
    for name, path in sorted(beside.items()):
        whole.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _settings(recipe: Recipe) -> str:
    return recipe.as_metadata()["recipe"]
