"""What the Snakefile and the command line call: start a run, show what is due, why, and how it ended."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from finalchar import frozen, plan, provenance, records
from finalchar.config_text import command_line_overrides
from finalchar.errors import ConfigError, FinalcharError
from finalchar.frozen import Configured, Survey
from finalchar.layout import Layout, group_name
from finalchar.plan import Plan, Unit
from finalchar.programs import needed_programs
from finalchar.status import Status

__all__ = ["SnakemakeRun", "explain", "outcome_table", "redo", "run", "status", "verify"]

MOST_LINES = 20
"""Sentences of one kind that are printed before the rest is only counted."""


class SnakemakeRun:
    """One Snakemake process: its configuration, its plan, its lock.

    Parameters
    ----------
    base : Path
        Folder of the Snakefile.
    configfiles : sequence of path
        Those of ``--configfile``; none: config.yaml in the working directory, or else beside the Snakefile.
    overrides : mapping
        Those of ``--config``.
    """

    def __init__(self, base: Path, configfiles: Sequence[str | Path], overrides: Mapping[str, Any]) -> None:
        if len(configfiles) > 1:
            raise ConfigError("more than one --configfile: write one complete file")
        path = Path(configfiles[0]) if configfiles else find_config(base)
        self.configured = Configured.read(path, typed_overrides(overrides))
        if set("{}") & set(self.layout.output):
            raise ConfigError(
                f"output: the folder {self.layout.output} has a brace in its name, which Snakemake takes for "
                "a wildcard: choose another name"
            )
        self._lock: IO[str] | None = None
        self._warned = False

    @property
    def layout(self) -> Layout:
        """Where everything lies."""
        return self.configured.layout

    @functools.cached_property
    def folder(self) -> str:
        """The run folder of the jobs."""
        return self.configured.run_folder

    @functools.cached_property
    def plan(self) -> Plan:
        """The planner; made when it is first asked, in the main process only."""
        made = Plan(self.configured.survey())
        made.check_archive()
        return made

    def check(self) -> None:
        """Read the sheets and look at the output folder: what cannot work is said before anything begins."""
        check_writable(self.layout.output)
        self.plan  # noqa: B018 - made here, so that its errors come at once
        self._check_programs()

    def _check_programs(self) -> None:
        """Check that programs which due detectors need are there."""
        needed = needed_programs(self.configured.config.to_plain())
        if needed and (self.plan.gate.due or any(unit.due for unit in self.plan.visits())):
            for program in needed:
                program.find()

    @property
    def gate_is_consulted(self) -> bool:
        """Whether detectors must wait for visit lists."""
        return self.plan.wants(self.plan.gate)

    def planned(self, function: Callable[[Plan, Any], Any], wildcards: Any) -> Any:
        """Answer an input function behind the gate; keep what planning learned."""
        answer = function(self.plan, wildcards)
        self.plan.finish()
        self._announce()
        if not self._warned:
            self._warned = True
            tell(software_sentences(self.plan))
        return answer

    def _announce(self) -> None:
        """Tell the jobs how many detectors are due."""
        if self._lock is None:
            return
        record = records.run_record(self.layout.run_record)
        if record["id"] == self.plan.run_id and record["due"] != len(self.plan.due_detectors):
            provenance.save(self.layout.run_record, {**record, "due": len(self.plan.due_detectors)})

    def start(self) -> None:
        """Take the lock, freeze configuration and sheets, write down what the digests stand for."""
        self._lock = frozen.hold_lock(self.layout.lock)
        frozen.write_run(self.plan.survey, self.plan.run_id, self.plan.wanted)
        write_ingredients(self.plan)
        self._announce()
        tell(missing_sentences(self.plan))

    def outcomes(self) -> str:
        """Print the outcomes per visit; return a sentence if a detector ended in an error."""
        tell([*outcome_table(self.plan.survey), *outdated_sentences(self.plan)])
        return error_sentence(self.plan.survey)


NEED_NO_SURVEY = frozenset(
    {
        "--lint",
        "--list-rules",
        "--list",
        "-l",
        "--list-target-rules",
        "--lt",
        "--unlock",
        "--help",
        "--version",
    }
)


def is_asked_to_run(words: Sequence[str]) -> bool:
    """Whether Snakemake's command line asks for anything that needs sheets and output folder."""
    return NEED_NO_SURVEY.isdisjoint(words)


def check_writable(folder: str) -> None:
    """Check that the output folder can be made and written.

    Raises
    ------
    FinalcharError
    """
    there = os.path.abspath(folder)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise FinalcharError(
            f"the output folder {folder} cannot be written ({there} is not a folder that you may write to): "
            "choose another `output` or free it"
        )


def find_config(base: Path) -> Path:
    """Return config.yaml of the working directory, or else the one beside the Snakefile."""
    here = Path("config.yaml")
    return here if here.is_file() else base / "config.yaml"


OVERRIDES = "FINALCHAR_OVERRIDES"


def typed_overrides(overrides: Mapping[str, Any]) -> list[str]:
    """Return the settings of the command line as they were typed; jobs inherit them by the environment.

    Snakemake's dictionary has lost information (``output=2026_01_15`` has become a number), and serves only
    where the command line is not Snakemake's.
    """
    if OVERRIDES not in os.environ:
        typed = command_line_overrides(sys.argv) or flat_overrides(overrides)
        os.environ[OVERRIDES] = json.dumps(typed)
    return list(json.loads(os.environ[OVERRIDES]))


def flat_overrides(overrides: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return Snakemake's ``--config`` dictionary as ``dotted.key=value`` texts for our own strict reader."""
    texts = []
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            texts += flat_overrides(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={json.dumps(value)}")
    return texts


def tell(lines: Sequence[str]) -> None:
    """Print lines beside Snakemake's own, on standard error."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def shortened(lines: Sequence[str]) -> list[str]:
    """Return the first lines and how many more there are."""
    more = [f"... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    return [*lines[:MOST_LINES], *more]


# -- what is due -----------------------------------------------------------------------------------------
def missing_sentences(planned: Plan) -> list[str]:
    """One sentence per missing input file; before the lists are made no detector has been planned."""
    if planned.gate.due:
        planned.note_missing_files()
    lines = [
        f"visit {visit} detector {detector}: {path} is missing, its status is input_missing: "
        "correct detectors.csv or bring it back"
        for (visit, detector), paths in sorted(planned.missing_files.items())
        for path in paths
    ]
    sentences = {sentence for visit in planned.survey.visits if (sentence := planned.blocked(visit))}
    return shortened([*planned.outdated_tables, *sorted(sentences), *lines])


def software_sentences(planned: Plan) -> list[str]:
    """Say which versions differ from those that current products were made with (``software: warn``)."""
    now = planned.ingredients["detector"]["software"]
    changes = set()
    for made_with in planned.other_software - {provenance.digest(now), ""}:
        before = records.ingredients_record(f"{planned.layout.ingredients}/{made_with}.json") or {}
        changes |= {
            f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]
        }
    if not changes:
        return []
    return [
        f"some products were made with other versions ({', '.join(sorted(changes))}) and are kept: "
        "staleness.software is warn"
    ]


def status(planned: Plan) -> list[str]:
    """Return what is due, in counts, and what is known to be wrong."""
    tracts = [unit for unit in map(planned.tract, planned.survey.tracts) if unit.due]
    lists = [unit for unit in planned.lists() if unit.due]
    lines = missing_sentences(planned)
    if lists:
        lines.append(
            f"due: {len(tracts)} tracts, {len(lists)} of {len(planned.survey.visits)} visit lists; "
            "which detectors they make due is known when they are made"
        )
    else:
        visits = [unit for unit in planned.visits() if unit.due]
        lines = missing_sentences(planned)
        counted = Counter(kind(reason) for why in planned.due_detectors.values() for reason in why[:1])
        total = sum(map(len, planned.survey.visits.values()))
        lines.append(f"due: {len(planned.due_detectors)} of {total} detectors, {len(visits)} visits")
        lines += [f"  {number} because {reason}" for reason, number in counted.most_common()]
        lines += software_sentences(planned)
        if not visits and not planned.survey_unit.due:
            lines.append("nothing to do")
    planned.finish()
    return lines


def kind(reason: str) -> str:
    """Return a reason without the name of the file."""
    words = reason.split()
    return " ".join(word for word in words if "/" not in word and "." not in word)


def explain(planned: Plan, visit: int, detector: int) -> list[str]:
    """Return why a detector is due, to the last ingredient that differs."""
    survey = planned.survey
    rows = [row for row in survey.visits.get(visit, []) if row["detector"] == detector]
    if not rows:
        raise FinalcharError(f"visit {visit} detector {detector} is not in the sheet of detectors")
    if planned.visit_list(visit).due:
        why = planned.visit_list(visit).reasons
        return [f"the list of visit {visit} is due: {'; '.join(why)}", *tract_reasons(planned, visit)]
    name = group_name(detector, survey.detectors_per_job)
    folder = survey.layout.folder(visit)
    known = {
        **{
            number: item
            for record in records.group_records(folder).values()
            for number, item in record.get("detectors", {}).items()
        },
        **(records.group_record(f"{folder}/{name}.json") or {}).get("detectors", {}),
    }
    record = known.get(str(detector))
    want = plan.detector_wanted(planned.wanted["detector"], planned.list_record(visit), rows[0])
    why = planned.detector_reasons(visit, rows[0], want, record)
    lines = [f"visit {visit} detector {detector} is {'due' if why else 'current'}"]
    lines += [f"  {reason}" for reason in why]
    if record:
        lines += list(differences(survey.layout, record["wanted"], want, planned.ingredients["detector"]))
        outcome = Status(record["status"]["status"])
        lines.append(f"  last outcome: {outcome}: {record['status']['sentence'] or outcome.meaning}")
    return lines


def tract_reasons(planned: Plan, visit: int) -> list[str]:
    """Return why the tracts of a visit are due."""
    return [
        f"  tract {tract}: {reason}"
        for tract, unit in planned.tract_units(visit).items()
        for reason in unit.reasons
    ]


def write_ingredients(planned: Plan) -> None:
    """Keep what the digests of this run stand for, so that `explain` can name what differs later."""
    for full in planned.ingredients.values():
        for content in full.values():
            path = f"{planned.layout.ingredients}/{provenance.digest(content)}.json"
            if not os.path.exists(path):
                provenance.save(path, content)


def differences(
    layout: Layout, made_with: Mapping[str, str], want: Mapping[str, str], full: Mapping[str, Any]
) -> Iterator[str]:
    """Name modules, settings and versions that differ from those a product was made with."""
    for part in ("code", "config", "software"):
        old = records.ingredients_record(f"{layout.ingredients}/{made_with.get(part)}.json")
        if part in want and made_with.get(part) != want[part] and old is not None:
            before, now = leaves(old), leaves(full[part])
            for key in sorted(before.keys() | now.keys()):
                if before.get(key) != now.get(key):
                    detail = "" if part == "code" else f": {before.get(key)} -> {now.get(key)}"
                    yield f"  {part}: {key}{detail}"


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as {dotted key: value}."""
    if not isinstance(value, Mapping):
        return {prefix.rstrip("."): value}
    return {
        name: leaf for key, item in value.items() for name, leaf in leaves(item, f"{prefix}{key}.").items()
    }


# -- outcomes --------------------------------------------------------------------------------------------
def detector_statuses(survey: Survey) -> Iterator[tuple[int, int, Mapping[str, Any] | None]]:
    """Visit, detector and recorded status (None: not made yet) of every row of the sheet."""
    for visit, rows in survey.visits.items():
        names = plan.groups_of(rows, survey.detectors_per_job)
        for name, members in names.items():
            record = records.group_record(survey.layout.record(visit, name)) or {"detectors": {}}
            for row in members:
                item = record["detectors"].get(str(row["detector"]))
                yield visit, row["detector"], item["status"] if item else None


def outcome_table(survey: Survey) -> list[str]:
    """Return the table of outcomes per visit, and every sentence about errors of detectors, once."""
    counts: dict[int, Counter[str]] = {visit: Counter() for visit in survey.visits}
    errors: dict[str, list[str]] = {}
    for visit, detector, found in detector_statuses(survey):
        counts[visit][found["status"] if found else "not made"] += 1
        if found and found["status"] in plan.ERROR_STATUSES:
            sentence = f"{found['status']}: {found['sentence']}"
            errors.setdefault(sentence, []).append(f"visit {visit} detector {detector}")
    lines = [f"products in {survey.layout.output}; outcome of the detectors:"]
    visits = [
        f"  visit {visit} ({survey.visits[visit][0]['band']}): "
        + ", ".join(f"{number} {name}" for name, number in sorted(count.items(), key=lambda item: item[0]))
        for visit, count in counts.items()
    ]
    if len(visits) > MOST_LINES:
        total: Counter[str] = sum(counts.values(), Counter())
        visits = [f"  {number} {name}" for name, number in sorted(total.items())]
    return [*lines, *visits, *shortened([f"{names_of(where)}: {what}" for what, where in errors.items()])]


def outdated_sentences(planned: Plan) -> list[str]:
    """Say which outcomes are those of an earlier run, because a job of this one failed before."""
    survey = planned.survey
    if planned.gate.due and not os.path.exists(planned.gate.stamp):
        return ["a tract or visit list was not made: the outcomes above may be those of an earlier run"]
    old = []
    for visit, detector in sorted(planned.due_detectors):
        name = group_name(detector, survey.detectors_per_job)
        record = records.group_record(survey.layout.record(visit, name)) or {"detectors": {}}
        item = record["detectors"].get(str(detector))
        is_finished = (record.get("token") or "")[8:12] == planned.run_id  # its job looked at all of them
        if item and not is_finished and item.get("run") != planned.run_id:
            old.append(f"visit {visit} detector {detector}")
    if not old:
        return []
    return [f"due and not made again, the outcome above is that of an earlier run: {names_of(old)}"]


def names_of(detectors: Sequence[str]) -> str:
    """Return the first of the detectors that share a sentence, and how many there are."""
    more = len(detectors) - 1
    return detectors[0] + (f" and {more} more detector{'s' if more > 1 else ''}" if more else "")


def error_sentence(survey: Survey) -> str:
    """Return a sentence if detectors ended in an error, an empty one otherwise."""
    counted = Counter(found["status"] if found else "not made" for _, _, found in detector_statuses(survey))
    errors = {name: counted[name] for name in sorted(plan.ERROR_STATUSES) if counted[name]}
    if not errors:
        return ""
    listed = ", ".join(f"{number} {name}" for name, number in errors.items())
    rest = f"{counted['not made']} are not made yet" if counted["not made"] else "everything else is complete"
    remedy = "mend what their sentences name, then start again"
    return f"some detectors ended in an error ({listed}); {rest}; {remedy}"


# -- commands --------------------------------------------------------------------------------------------
def run(base: Path, config: Path, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Run the workflow: what is due, Snakemake, outcomes; return the exit status.

    0: everything that could be made is made, outcomes such as ``no_isolated_stars`` or ``psf_failed``
    included; 1: a job failed, or a detector ended in ``input_missing``, ``input_broken`` or
    ``internal_error``.
    """
    overrides = [*overrides, *command_line_overrides(arguments)]
    configured = Configured.read(config, overrides)
    check_writable(configured.layout.output)
    planned = Plan(configured.survey())
    planned.check_archive()
    before = status(planned)
    print("\n".join(before), flush=True)
    survey = planned.survey
    if before[-1] != "nothing to do":
        if frozen.lock_is_held(survey.layout.lock):
            frozen.hold_lock(survey.layout.lock)
        return snakemake(base, config, overrides, arguments)  # it shows the outcomes, see `outcomes`
    print("\n".join(outcome_table(survey)))
    if sentence := error_sentence(survey):
        print(f"error: {sentence}")
        return 1
    return 0


def snakemake(base: Path, config: Path, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Run Snakemake on a configuration; a lock that a killed Snakemake left behind is removed first."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(base / "Snakefile")]
    command += ["--configfile", str(config)]
    environment = {**os.environ, OVERRIDES: json.dumps(list(overrides))}
    if has_stale_lock():
        subprocess.run([*command, "--unlock", "--quiet"], check=False, env=environment)
    wanted = [found_profile(base, argument) for argument in arguments]
    limits = ("-c", "-j", "--cores", "--jobs", "--profile", "--workflow-profile")
    if not any(argument.startswith(limits) for argument in wanted):
        wanted += ["--cores", "all"]
    return subprocess.run([*command, *wanted], check=False, env=environment).returncode


def found_profile(base: Path, argument: str) -> str:
    """Return the path of a profile of the clone, whatever the working directory; other words as they are."""
    if argument.startswith("profiles/") and not os.path.exists(argument) and (base / argument).is_dir():
        return str(base / argument)
    return argument


def has_stale_lock() -> bool:
    """Whether Snakemake's lock of this working directory stands (our own lock was found free)."""
    folder = Path(".snakemake/locks")
    return folder.is_dir() and any(folder.iterdir())


def redo(survey: Survey, visit: int, detector: int | None) -> list[str]:
    """Forget the records of a visit's detectors, so that the next run makes them again."""
    if visit not in survey.visits:
        raise FinalcharError(f"visit {visit} is not in the sheet of detectors")
    if frozen.lock_is_held(survey.layout.lock):
        raise FinalcharError("a run is working on this output: wait for it or stop it")
    numbers = {str(row["detector"]) for row in survey.visits[visit] if detector in (None, row["detector"])}
    if not numbers:
        raise FinalcharError(f"visit {visit} detector {detector} is not in the sheet of detectors")
    folder = survey.layout.folder(visit)
    forgotten = set()
    for name, record in records.group_records(folder).items():
        found = numbers & record["detectors"].keys()
        for number in found:
            del record["detectors"][number]
        if found:
            provenance.save(f"{folder}/{name}.json", record)
        forgotten |= found
    return [f"visit {visit}: {len(forgotten)} detectors will be made again by the next run"]


def verify(survey: Survey) -> tuple[list[str], bool]:
    """Hash every file of the records; return what is not sound, and whether all is."""
    planned = Plan(survey, hash_everything=True)
    lines = status(planned)
    is_current = lines[-1] == "nothing to do"
    stars = [unit for tract in survey.tracts for unit in planned.units_of_tract(tract)]
    units = [*stars, *map(planned.tract, survey.tracts), *planned.lists()]
    if planned.gate.due:
        lines.append("the detectors were not looked at: first their lists must be current")
    else:
        units += [*planned.visits(), planned.survey_unit]
    lines += shortened([*damaged_products(units), *due_sentences(planned)])
    lines.append(f"{planned.digests.hashed} files hashed")
    if not is_current:
        lines.append("`finalchar run --set staleness.trust_stat=false` makes what is listed again")
    return lines, is_current and not planned.outdated_tables


def damaged_products(units: Sequence[Unit]) -> list[str]:
    """Why tracts, lists, visits and the survey are due, if it is for a product of their own."""
    return [
        f"  {os.path.basename(os.path.dirname(unit.stamp))} {unit.name}: {reason}"
        for unit in units
        for reason in unit.reasons
        if reason.startswith("product ")
    ]


def due_sentences(planned: Plan) -> list[str]:
    """One line per due detector with all its reasons."""
    return [
        f"  visit {visit} detector {detector}: {'; '.join(why)}"
        for (visit, detector), why in sorted(planned.due_detectors.items())
    ]
