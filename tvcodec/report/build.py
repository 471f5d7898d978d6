"""From an open file to its page and its pictures."""

from __future__ import annotations

from dataclasses import dataclass

from tvcodec.errors import TvqError
from tvcodec.file.archive import Archive
from tvcodec.report import page, sections, style
from tvcodec.report.facts import Facts, Progress, gather
from tvcodec.report.likeness import likeness
from tvcodec.report.spectra import spectra
from tvcodec.report.summary import summary


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a file, and the sections of its page in order."""

    facts: Facts
    sections: tuple[sections.Section, ...]

    @property
    def plots(self) -> tuple[str, ...]:
        """Names of the charts that this file has something for."""
        return tuple(one.chart.name for one in self.sections if one.chart)

    def page(self) -> bytes:
        """The page, HTML in UTF-8, which asks for no other file; the same .tvq file under the same
        name gives the same bytes with the same libraries."""
        lead, terms = summary(self.facts)
        return page.page(f"Report on {self.facts.name}", lead, terms, self.sections).encode()

    def png(self, plot: str) -> bytes:
        """One chart as a picture on white. TvqError where there is nothing to draw."""
        for one in self.sections:
            if one.chart and one.chart.name == plot:
                return style.png(one.chart.draw)
        known = ", ".join(self.plots) or "nothing"
        raise TvqError(f"{self.facts.name}: nothing to draw for {plot!r}", hint=f"there is {known}")


def report(archive: Archive, name: str, progress: Progress = lambda tasks: None) -> Report:
    """The report on an open file that is called `name`; `progress` is told of every task whose
    index was read. FormatError where what is read is damaged."""
    facts = gather(archive, name, progress)
    found = [
        sections.tasks(facts),
        sections.sizes(facts),
        sections.tuning(facts),
        sections.depth(facts),
        sections.spectra(facts, spectra(archive)),
        sections.likeness(facts, likeness(archive)),
    ]
    return Report(facts, tuple(one for one in found if one))
