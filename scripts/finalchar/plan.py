"""Planning: which units are due and why, and the token of each.  Main process only, standard library only.

A *unit* is what one job makes: a tract, a visit's list, a group of detectors, a visit, the survey.  Its
declared output is a *stamp* whose name ends in a *token*.  A current unit keeps its recorded token; a due
one gets a token whose stamp is not on disk, so that "output missing" is Snakemake's only reason to run.
docs/staleness.md tells the whole story.
"""

from __future__ import annotations

import functools
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from finalchar import provenance, records, sheets
from finalchar.errors import InputError, StaleRunError
from finalchar.frozen import Row, Survey
from finalchar.layout import group_name
from finalchar.provenance import Inputs
from finalchar.status import Status
from finalchar.tabulated import outdated_table

__all__ = ["Plan", "Unit", "detector_inputs", "detector_wanted", "tract_files"]

LIST_LATENCY_SECONDS = 30
ERROR_STATUSES = frozenset(str(status) for status in Status if status.is_error)
RETRIED_STATUSES = frozenset({str(Status.INTERNAL_ERROR)})


@dataclass(frozen=True)
class Unit:
    """One job's worth of work.

    Attributes
    ----------
    stamp : str
        Path of the stamp, its name ends in ``.<token>``.
    reasons : sequence of str
        Why the unit is due; empty: it is current.
    digests : mapping of str to str
        What the unit gives to the next ones (of a current unit): digests by name.
    """

    stamp: str
    reasons: Sequence[str] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def due(self) -> bool:
        """Whether the unit must be made."""
        return bool(self.reasons)

    @property
    def token(self) -> str:
        """The part of the stamp's name behind the last dot."""
        return self.stamp.rsplit(".", 1)[1]

    @property
    def name(self) -> str:
        """The part of the stamp's name before the last dot."""
        return os.path.basename(self.stamp).rsplit(".", 1)[0]


# -- what planner and jobs must agree on -----------------------------------------------------------------
def tract_files(row: Row) -> dict[str, str]:
    """Files of a tract by role, as the sheets give them: its tables, or those of which they are made."""
    if row.get("region"):
        return {f"source_table {visit}": path for visit, path in row["source_tables"].items()}
    return {role: row[role] for role in ("isolated_star_cat", "isolated_star_sources")}


def association_wanted(stage: Mapping[str, str], row: Row) -> dict[str, str]:
    """What the isolated stars of a tract are compared by: stage, its region in the sheet."""
    return {**stage, "sheet": provenance.digest(row["region"])}


def association_inputs(survey_folder: str, row: Row) -> Inputs:
    """What the isolated stars of a tract are made from: the source tables of the visits."""
    return Inputs(survey_folder, tract_files(row))


def tract_inputs(survey_folder: str, row: Row, association: Mapping[str, Any] | None) -> Inputs:
    """What the reserve draws of a tract are made from: tables of the sheet, or those that were made here.

    Raises
    ------
    StaleRunError
        If the tables are made here and have no record.
    """
    if not row.get("region"):
        return Inputs(survey_folder, tract_files(row))
    if association is None:
        raise StaleRunError(f"the isolated stars of tract {row['tract']} have no sound record: start again")
    broken = association.get("broken")
    made = f"broken {provenance.digest(broken)}" if broken else provenance.product_digest(association)
    return Inputs(upstream={"isolated stars": made})


def tract_promise(wanted: Mapping[str, str], row: Row, association: str | None) -> object:
    """What the token of a tract stands for; `association`: the token of its isolated stars."""
    return [wanted, association] if row.get("region") else wanted


def missing_tract_files(survey_folder: str, row: Row) -> list[str]:
    """Files of a tract that are not there."""
    paths = tract_files(row).values()
    return [path for path in paths if not os.path.exists(provenance.located(survey_folder, path))]


def tracts_of_visit(rows: Sequence[Row], tracts: Mapping[int, Row]) -> dict[int, Row]:
    """Tracts that a visit may see: those of the optional column ``tracts``, otherwise all of the sheet."""
    named = [row["tracts"] for row in rows if row.get("tracts")]
    if len(named) < len(rows):
        return dict(tracts)
    wanted = {int(tract) for text in named for tract in str(text).replace(";", " ").split()}
    return {tract: row for tract, row in tracts.items() if tract in wanted}


def blocked_by_files(
    survey_folder: str, visit: int, tracts: Mapping[int, Row], tract_record: Callable[[int], Any]
) -> str | None:
    """Name a missing tract file without which the list of a visit cannot be made.

    A tract that was prepared before from its tables is known to concern the visits of its record only.  One
    that is given by its region may concern every visit: the stars of a new one were never looked for.
    """
    for tract, row in tracts.items():
        if missing := missing_tract_files(survey_folder, row):
            by_region = bool(row.get("region"))
            visits = None if by_region else (tract_record(tract) or {}).get("visits")
            if visits is None or visit in visits:
                sheet = "source_table in detectors.csv" if by_region else "tracts.csv"
                return f"the file {missing[0]} of tract {tract} is missing: correct {sheet} or bring it back"
    return None


NO_ROWS = "none"
"""Digest of no rows at all."""


def tract_digest(record: Mapping[str, Any] | None, visit: int) -> str:
    """Digest of what a tract gives to a visit: of its product, `NO_ROWS` if it does not concern the visit.

    Raises
    ------
    StaleRunError
        If the tract has no record.
    """
    if record is None:
        raise StaleRunError(f"visit {visit}: a tract has no sound record: start again")
    visits = record.get("visits")
    if visits is not None and visit not in visits:
        return NO_ROWS
    if "broken" in record:
        return "broken " + provenance.digest(record["broken"])
    return str(record["outputs"]["reserved_stars"][3])


def fgcm_bands(settings: Mapping[str, Any], band: str) -> list[str]:
    """Bands of standard-star magnitudes that the detectors of a visit need (settings of stage ``list``)."""
    fgcm = settings["fgcm"]
    color = (fgcm["colors"] or {}).get(band, "")
    return sorted({*(fgcm["bands"] or ()), *(part for part in color.split("-") if part)})


def list_inputs(
    survey_folder: str,
    visit: int,
    tracts: Mapping[int, Row],
    tract_record: Callable[[int], Any],
    *,
    with_fgcm: bool,
) -> Inputs:
    """What a visit's list is made from: digests of its tracts' products, and standard stars if needed."""
    upstream, files = {}, {}
    for tract, row in tracts.items():
        value = tract_digest(tract_record(tract), visit)
        upstream[f"tract {tract}"] = value
        if with_fgcm and row.get("fgcm_standard_star") and value != NO_ROWS:
            files[f"fgcm_standard_star {tract}"] = row["fgcm_standard_star"]
    return Inputs(survey_folder, files, upstream)


def blocked_inputs(sentence: str) -> Inputs:
    """What a list without tract files is made from."""
    return Inputs(upstream={"blocked": provenance.digest(sentence)})


def list_wanted(stage: Mapping[str, str], rows: Sequence[Row]) -> dict[str, str]:
    """What a visit's list is compared by."""
    return {**stage, "sheet": str(rows[0]["band"])}


def detector_wanted(stage: Mapping[str, str], list_record: Mapping[str, Any], row: Row) -> dict[str, str]:
    """What a detector is compared by: stage, its rows of the list, its row of the sheet without paths."""
    if list_record.get("blocked"):
        rows = "blocked " + provenance.digest(list_record["blocked"])
    else:
        rows = list_record["rows"].get(str(row["detector"]), NO_ROWS)
    details = sheets.image_details(row)
    sheet = provenance.digest([row["band"], details]) if details else str(row["band"])
    return {**stage, "rows": rows, "sheet": sheet}


def detector_inputs(survey_folder: str, row: Row) -> Inputs:
    """The files of a detector."""
    return Inputs(survey_folder, sheets.detector_files(row))


def visit_inputs(detectors: Mapping[str, str], draws: Mapping[str, str]) -> Inputs:
    """What a visit is made from: digests of its detectors' products, and of its tracts' reserve draws."""
    made = {f"detector {number}": value for number, value in detectors.items()}
    return Inputs(upstream={**made, **{f"reserve draw of tract {t}": value for t, value in draws.items()}})


def survey_inputs(visits: Mapping[str, str]) -> Inputs:
    """What the survey's summary is made from: digests of the visits' products."""
    return Inputs(upstream={f"visit {visit}": value for visit, value in visits.items()})


def token_of(record: Mapping[str, Any] | None) -> str | None:
    """Token that a record holds."""
    return record["token"] if record else None


def unfinished(record: Mapping[str, Any] | None) -> bool:
    """Whether a group's job was stopped before its end."""
    return not record or not record.get("token")


def groups_of(rows: Sequence[Row], detectors_per_job: int) -> dict[str, list[Row]]:
    """Rows of a visit by job group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_name(row["detector"], detectors_per_job), []).append(row)
    return groups


Method = TypeVar("Method", bound=Callable[..., Any])


def kept(method: Method) -> Method:
    """Compute each answer of a method once per object and keep it."""
    name = f"_kept_{method.__name__}"

    @functools.wraps(method)
    def answer(self: Any, *arguments: Any) -> Any:
        answers = self.__dict__.setdefault(name, {})
        if arguments not in answers:
            answers[arguments] = method(self, *arguments)
        return answers[arguments]

    return answer  # type: ignore[return-value]


# -- the planner -----------------------------------------------------------------------------------------
class Plan:
    """Compares the records with today's world; every answer is computed once and kept.

    Parameters
    ----------
    survey : Survey
        Configuration and sheets.
    hash_everything : bool
        Do not trust size and time stamp (``finalchar verify``).
    """

    def __init__(self, survey: Survey, *, hash_everything: bool = False) -> None:
        staleness = survey.config["staleness"]
        self.survey = survey
        self.layout = survey.layout
        self.run_id = secrets.token_hex(2)
        self.digests = provenance.FileDigests(
            self.layout.digest_cache,
            limit=float("inf") if hash_everything else float(staleness["hash_limit_gb"]) * 1e9,
            trust_stat=bool(staleness["trust_stat"]) and not hash_everything,
        )
        reader = provenance.CodeReader(self.layout.code_cache)
        self.ingredients = {
            stage: provenance.ingredients(stage, survey.settings[stage], reader)
            for stage in provenance.STAGES
        }
        self._code_reader = reader
        self.wanted = {
            stage: provenance.wanted(full, compare_software=survey.compare_software)
            for stage, full in self.ingredients.items()
        }
        self.due_detectors: dict[tuple[int, int], list[str]] = {}
        self.missing_files: dict[tuple[int, int], list[str]] = {}
        self.known_errors: dict[tuple[int, int], Mapping[str, Any]] = {}
        self.other_software: set[str] = set()

    # -- names ---------------------------------------------------------------------------------------
    @kept
    def _names(self, folder: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()

    def _unit(
        self,
        folder: str,
        name: str,
        reasons: Sequence[str],
        current: str | None,
        promise: object,
        digests: Mapping[str, str] | None = None,
    ) -> Unit:
        """Name the stamp: the recorded token, or 8 digits of the promise and 4 of this run, not yet taken."""
        if not reasons:
            return Unit(f"{folder}/{name}.{current}", (), digests or {})
        base = token = provenance.digest(promise)[:8] + self.run_id
        taken = self._names(folder)
        count = 0
        while f"{name}.{token}" in taken:
            count += 1
            token = f"{base}-{count}"
        return Unit(f"{folder}/{name}.{token}", tuple(reasons))

    # -- tract and visit stage -----------------------------------------------------------------------
    @kept
    def tract_record(self, tract: int) -> Any:
        """Record of a tract, None if there is none."""
        return records.tract_record(self.layout.record("reserve", f"tract_{tract}"))

    @kept
    def association_record(self, tract: int) -> Any:
        """Record of a tract's isolated stars, None if there is none."""
        return records.association_record(self.layout.record("associate", f"tract_{tract}"))

    @kept
    def association(self, tract: int) -> Unit | None:
        """Return the unit of a tract's isolated stars; None if the sheet gives their tables."""
        row = self.survey.tracts[tract]
        if not row.get("region"):
            return None
        record = self.association_record(tract)
        want = association_wanted(self.wanted["association"], row)
        inputs = association_inputs(self.survey.folder, row)
        why = provenance.reasons(record, want, inputs, self.layout.isolated_star_folder, self.digests)
        return self._unit(self.layout.folder("associate"), f"tract_{tract}", why, token_of(record), want)

    @kept
    def tract_is_missing(self, tract: int) -> bool:
        """Whether a file of the tract is not there, so that it cannot be prepared."""
        return bool(missing_tract_files(self.survey.folder, self.survey.tracts[tract]))

    @kept
    def tract(self, tract: int) -> Unit:
        """Return the unit of a tract: its reserve draws."""
        record = self.tract_record(tract)
        want = {**self.wanted["tract"], "sheet": provenance.digest(self.survey.bands)}
        row = self.survey.tracts[tract]
        stars = self.association(tract)
        why = [f"isolated stars: {reason}" for reason in stars.reasons] if stars else []
        if not why:
            inputs = tract_inputs(self.survey.folder, row, self.association_record(tract))
            why = provenance.reasons(record, want, inputs, self.layout.reserve_folder, self.digests)
        promise = tract_promise(want, row, stars.token if stars else None)
        return self._unit(self.layout.folder("reserve"), f"tract_{tract}", why, token_of(record), promise)

    def tracts_of(self, visit: int) -> dict[int, Row]:
        """Tracts that a visit may see."""
        return tracts_of_visit(self.survey.visits[visit], self.survey.tracts)

    @kept
    def blocked(self, visit: int) -> str | None:
        """Why the list of a visit cannot be made: a missing tract file."""
        return blocked_by_files(self.survey.folder, visit, self.tracts_of(visit), self.tract_record)

    def tract_units(self, visit: int) -> dict[int, Unit]:
        """Tract units that the list of a visit is made from; tracts with missing files are left out."""
        return {
            tract: self.tract(tract) for tract in self.tracts_of(visit) if not self.tract_is_missing(tract)
        }

    @kept
    def visit_list(self, visit: int) -> Unit:
        """Return the unit of a visit's reserve list."""
        units = {} if self.blocked(visit) else self.tract_units(visit)
        record = records.list_record(self.layout.record(visit, "list"))
        want = list_wanted(self.wanted["list"], self.survey.visits[visit])
        why = [f"tract {tract} is due" for tract, unit in units.items() if unit.due]
        if not why:
            why = provenance.reasons(
                record, want, self._list_inputs(visit), self.layout.visit_folder(visit), self.digests
            )
        promise = [want, {str(tract): unit.token for tract, unit in units.items()}, self.blocked(visit)]
        return self._unit(self.layout.folder(visit), "list", why, token_of(record), promise)

    def _list_inputs(self, visit: int) -> Inputs:
        """What a current list must have been made from."""
        if sentence := self.blocked(visit):
            return blocked_inputs(sentence)
        needed = fgcm_bands(self.survey.settings["list"], str(self.survey.visits[visit][0]["band"]))
        return list_inputs(
            self.survey.folder, visit, self.tracts_of(visit), self.tract_record, with_fgcm=bool(needed)
        )

    @functools.cached_property
    def gate(self) -> Unit:
        """The checkpoint behind all lists; consulted only when one is due."""
        units = [self.visit_list(visit) for visit in self.survey.visits]
        why = ["a visit list is due"] if any(unit.due for unit in units) else []
        folder = self.layout.folder("gate")
        there = sorted(name for name in self._names(folder) if name.startswith("gate."))
        current = there[-1].rsplit(".", 1)[1] if there else provenance.digest("gate")[:12]
        return self._unit(folder, "gate", why, current, [unit.token for unit in units if unit.due])

    # -- detectors: only after the gate ----------------------------------------------------------------
    def list_record(self, visit: int) -> Mapping[str, Any]:
        """Record of a visit's list; waits until the one that was asked for is seen (network file systems)."""
        unit = self.visit_list(visit)
        end = time.monotonic() + LIST_LATENCY_SECONDS
        while True:
            record = records.list_record(self.layout.record(visit, "list"))
            if record and (not unit.due or record["token"] == unit.token):
                return dict(record)
            if time.monotonic() > end:
                raise StaleRunError(f"visit {visit}: the list is not the one that was planned: start again")
            time.sleep(0.5)

    def groups(self, visit: int) -> dict[str, list[Row]]:
        """Rows of a visit by job group."""
        return groups_of(self.survey.visits[visit], self.survey.detectors_per_job)

    @kept
    def group_units(self, visit: int) -> dict[str, Unit]:
        """Return the units of all job groups of a visit."""
        list_record = self.list_record(visit)
        return {
            name: self._group(visit, name, rows, list_record) for name, rows in self.groups(visit).items()
        }

    def _group(self, visit: int, name: str, rows: Sequence[Row], list_record: Mapping[str, Any]) -> Unit:
        record = records.group_record(self.layout.record(visit, name))
        known = (record or {}).get("detectors", {})
        why: list[str] = []
        promise, digests = {}, {}
        for row in rows:
            number = str(row["detector"])
            promise[number] = detector_wanted(self.wanted["detector"], list_record, row)
            found = self.detector_reasons(visit, row, promise[number], known.get(number))
            if found:
                self.due_detectors[visit, row["detector"]] = found
                why.append(f"detector {number}: {'; '.join(found)}")
            else:
                digests[number] = provenance.product_digest(known[number])
                self.other_software.add(known[number]["wanted"].get("software", ""))
        if not why and unfinished(record):
            why = ["unfinished"]
        folder = self.layout.folder(visit)
        return self._unit(folder, name, why, token_of(record), promise, digests)

    def detector_reasons(
        self, visit: int, row: Row, want: Mapping[str, str], record: Mapping[str, Any] | None
    ) -> list[str]:
        """Return why a detector is due; takes note of missing files and of known errors."""
        inputs = detector_inputs(self.survey.folder, row)
        why = provenance.reasons(record, want, inputs, self.layout.detector_folder(visit), self.digests)
        key = (visit, row["detector"])
        if record and not why:
            status = record["status"]
            if status["status"] in RETRIED_STATUSES:
                why = ["it ended in an internal error"]
            elif status["status"] in ERROR_STATUSES:
                self.known_errors[key] = status
        if why or key in self.known_errors:
            self._note_missing(visit, row)
        return why

    def _note_missing(self, visit: int, row: Row) -> None:
        missing = detector_inputs(self.survey.folder, row).missing
        if missing:
            self.missing_files[visit, row["detector"]] = missing

    @functools.cached_property
    def outdated_tables(self) -> Sequence[str]:
        """Sentences about source tables, written by ``finalchar tabulate``, of what has changed since."""
        if self.survey.config["input"]["kind"] != "images":
            return []
        found = (
            outdated_table(self.survey, visit, self._code_reader, self.digests)
            for visit in self.survey.visits
        )
        return [sentence for sentence in found if sentence]

    def note_missing_files(self) -> None:
        """Look for the files of all detectors, due or not."""
        for visit, rows in self.survey.visits.items():
            for row in rows:
                self._note_missing(visit, row)

    @kept
    def visit(self, visit: int) -> Unit:
        """Return the unit of a visit: its consolidation."""
        units = self.group_units(visit)
        why = [f"group {unit.name} is due" for unit in units.values() if unit.due]
        record = records.unit_record(self.layout.record(visit, "visit"))
        want = self.wanted["visit"]
        if not why:
            made = {number: value for unit in units.values() for number, value in unit.digests.items()}
            inputs = visit_inputs(made, self.list_record(visit).get("draws", {}))
            why = provenance.reasons(record, want, inputs, self.layout.visit_folder(visit), self.digests)
        digests = {} if why or not record else {"visit": provenance.product_digest(record)}
        promise = [want, {name: unit.token for name, unit in units.items()}]
        return self._unit(self.layout.folder(visit), "visit", why, token_of(record), promise, digests)

    @functools.cached_property
    def survey_unit(self) -> Unit:
        """The unit of the survey: the table of all visits."""
        units = {str(visit): self.visit(visit) for visit in self.survey.visits}
        why = [f"visit {visit} is due" for visit, unit in units.items() if unit.due]
        record = records.unit_record(self.layout.record("survey", "survey"))
        want = self.wanted["survey"]
        if not why:
            inputs = survey_inputs({visit: unit.digests["visit"] for visit, unit in units.items()})
            why = provenance.reasons(record, want, inputs, self.layout.output, self.digests)
        promise = [want, {visit: unit.token for visit, unit in units.items()}]
        return self._unit(self.layout.folder("survey"), "survey", why, token_of(record), promise)

    # -- what the Snakefile asks for -------------------------------------------------------------------
    def units_of_tract(self, tract: int) -> Sequence[Unit]:
        """Unit of the isolated stars that a tract's reserve draws wait for."""
        stars = self.association(tract)
        return [] if stars is None else [stars]

    def units_of_list(self, visit: int) -> Sequence[Unit]:
        """Tract units that a visit's list waits for."""
        return [] if self.blocked(visit) else list(self.tract_units(visit).values())

    def lists(self) -> Sequence[Unit]:
        """Units of all visit lists."""
        return [self.visit_list(visit) for visit in self.survey.visits]

    def visits(self) -> Sequence[Unit]:
        """Units of all visits."""
        return [self.visit(visit) for visit in self.survey.visits]

    def targets(self) -> Sequence[str]:
        """Stamps that `rule all` asks for; the survey's record when everything is current."""
        visits = self.stamps(self.visits())
        limit = int(self.survey.config["visits_per_run"] or 0)
        if limit and len(visits) > limit:
            return visits[:limit]
        stamps = self.stamps([self.survey_unit, self.gate])
        return stamps or [self.layout.record("survey", "survey")]

    def wants(self, unit: Unit) -> bool:
        """Whether a unit enters the graph."""
        return unit.due or self.survey.full_graph

    def stamps(self, units: Sequence[Unit]) -> Sequence[str]:
        """Stamps of the units that enter the graph."""
        return [unit.stamp for unit in units if self.wants(unit)]

    def finish(self) -> None:
        """Keep digests of files and code for the next process."""
        try:
            self.digests.save()
            self._code_reader.save()
        except OSError:
            return  # a cache only: an output folder that cannot be written is reported when the run starts

    def check_archive(self) -> None:
        """Refuse to replace every good product by `input_missing` when an archive is gone as a whole.

        Raises
        ------
        InputError
            If of the exposures, the source catalogues or the tract tables not a single one exists although
            visits were made before.
        """
        rows = [row for members in self.survey.visits.values() for row in members]
        if len(rows) < 2:
            return
        tables = [path for row in self.survey.tracts.values() for path in tract_files(row).values()]
        archives = {
            "exposures": [sheets.detector_files(row)["exposure"] for row in rows],
            "source catalogues": [row["src"] for row in rows],
            "tract tables": tables,
        }
        for kind, paths in archives.items():
            if any(os.path.exists(provenance.located(self.survey.folder, path)) for path in paths):
                continue
            if any(os.path.exists(self.layout.record(visit, "visit")) for visit in self.survey.visits):
                raise InputError(
                    f"none of the {len(paths)} {kind} of the sheets exists below {self.survey.folder}: "
                    "is the archive mounted? Nothing was changed"
                )
