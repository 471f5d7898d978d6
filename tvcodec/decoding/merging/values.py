"""Methods that add task vectors up, or look at them value by value."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tvcodec.decoding.base_model import BaseModel
from tvcodec.decoding.task_vector import Term, summed
from tvcodec.file.index import BaseParameter
from tvcodec.maths.merge import consensus as consensus_maths
from tvcodec.maths.merge import dare as dare_maths
from tvcodec.maths.merge import magmax as magmax_maths
from tvcodec.maths.merge import model_stock as model_stock_maths
from tvcodec.maths.merge import ties as ties_maths

Tau = Callable[[int], Tensor]
"""The merged task vector of a parameter, float32 in its shape, by the parameter's number."""
Progress = Callable[[int], None]


class Tasks:
    """The tasks of a merge, in order: their terms and what they have of a parameter."""

    def __init__(self, terms: Sequence[Term], base: BaseModel | None) -> None:
        self.terms = list(terms)
        self.base = base

    @property
    def parameters(self) -> Sequence[BaseParameter]:
        """Those of the base model."""
        return self.terms[0].task.archive.root.base_model

    @property
    def numbers(self) -> Mapping[str, int]:
        """Parameter numbers by name."""
        return self.terms[0].task.archive.numbers

    def changed(self, number: int) -> bool:
        """Whether any of the tasks has a task vector for the parameter."""
        return any(term.task.changed(number) for term in self.terms)

    def read(self, number: int) -> Tasks:
        """The same, with one parameter read: however often it is looked at, from the file once."""
        return Tasks([term.read(number) for term in self.terms], self.base)

    def rotated(self, number: int) -> bool:
        """Whether any part of the parameter may be coded in a rotated frame."""
        return any(term.rotated(number) for term in self.terms)

    def structured(self) -> Tasks:
        """The same without what is coded in a rotated frame."""
        return Tasks([replace(term, structured=True) for term in self.terms], self.base)

    def total(self, number: int) -> Tensor:
        """The sum of all."""
        return summed(self.terms, number, self.base)

    def mean(self, number: int) -> Tensor:
        """The mean of all."""
        share = 1 / len(self.terms)
        return summed([term.times(share) for term in self.terms], number, self.base)

    def each(self, number: int) -> Iterator[Tensor]:
        """One after another."""
        return (summed([term], number, self.base) for term in self.terms)


def dare(tasks: Tasks, rate: float, seed: int) -> Tau:
    """The sum of what chance keeps of each."""

    def tau(number: int) -> Tensor:
        name = tasks.parameters[number].name
        total = torch.zeros(tasks.parameters[number].dims, dtype=torch.float32)
        for term, whole in zip(tasks.terms, tasks.each(number), strict=True):
            total += dare_maths.drop(whole, rate, seed, term.task.name, name)
        return total

    return tau


def consensus(tasks: Tasks, threshold: float, votes: int) -> Tau:
    return lambda number: consensus_maths.merge(list(tasks.each(number)), threshold, votes)


def magmax(tasks: Tasks) -> Tau:
    return lambda number: magmax_maths.merge(tasks.each(number))


def ties_by_parameter(tasks: Tasks, density: float) -> Tau:
    """Each parameter has thresholds of its own."""

    def tau(number: int) -> Tensor:
        each = tasks.each(number)
        trimmed = [ties_maths.trim(one, ties_maths.threshold(one, density)) for one in each]
        return ties_maths.merge(trimmed)

    return tau


def model_stock_by_parameter(tasks: Tasks) -> Tau:
    """Each parameter goes as far as the tasks agree on it."""

    def tau(number: int) -> Tensor:
        read = tasks.read(number)
        return read.mean(number).mul_(model_stock_maths.share(_gram(read, number)))

    return tau


def model_stock_by_model(tasks: Tasks, progress: Progress) -> Tau:
    """All parameters go as far as the tasks agree on the model, for which they are read once before
    the first of them is merged; `progress` is told of each as often as there are tasks."""
    found: list[float] = []
    measuring = threading.Lock()

    def share() -> float:
        total = torch.zeros(len(tasks.terms), len(tasks.terms), dtype=torch.float64)
        for number, parameter in enumerate(tasks.parameters):
            if tasks.changed(number):
                total += torch.tensor(_gram(tasks, number), dtype=torch.float64)
            progress(len(tasks.terms) * parameter.count)
        return model_stock_maths.share(total.tolist())

    def tau(number: int) -> Tensor:
        with measuring:
            if not found:
                found.append(share())
        return tasks.mean(number).mul_(found[0])

    return tau


def _gram(tasks: Tasks, number: int) -> list[list[float]]:
    """Inner products of the tasks' vectors of one parameter."""
    gram = model_stock_maths.gram(list(tasks.each(number)))
    for at, term in enumerate(tasks.terms):
        if term.rotated(number):  # noise lengthens what it does not turn
            gram[at][at] = (term.factor * term.task.norm(number)) ** 2
    return gram
