"""`Fleet`: everything that can be done with a fleet of models, from Python. See docs/start/from-python.md."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.config import FleetConfig, Layout, load_fleet

if TYPE_CHECKING:
    from pyarrow import Table

    from corrigenda.api import values
    from corrigenda.editing.localization.layer_scores import LayerScores
    from corrigenda.facts import Progress
    from corrigenda.storage.delivery.hub import Pushed
    from corrigenda.storage.delivery.lora import Adapter
    from corrigenda.storage.delivery.pull import Pulled
    from corrigenda.storage.objects.interface import ObjectStore
    from corrigenda.storage.releases.gc import Plan
    from corrigenda.storage.releases.hold import Hold


class Fleet:
    """A fleet of models: its configuration, queue and store.

    Cheap to open: only the configuration is read. What a method needs beyond that is imported and opened when
    it is called. Errors are of `corrigenda.errors`, and say what to do.

    >>> fleet = Fleet.open("fleet.toml")                # doctest: +SKIP
    >>> fleet.submit("mayors.parquet").good             # doctest: +SKIP
    >>> fleet.run().models[0].status                    # doctest: +SKIP
    """

    def __init__(self, config: FleetConfig, path: Path) -> None:
        self.config = config
        self.path = path

    @classmethod
    def open(cls, path: Path | str = "fleet.toml") -> Fleet:
        """The fleet of a configuration file. Raises ConfigError with all faults of the file at once."""
        return cls(load_fleet(Path(path)), Path(path))

    def __repr__(self) -> str:
        return f"Fleet.open({str(self.path)!r})"

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of the file."""
        return tuple(entry.name for entry in self.config.models)

    @property
    def store(self) -> ObjectStore:
        """The store of releases. Raises SetupError when it is not there."""
        from corrigenda.api.opened import store_of

        return store_of(self.config)

    @property
    def trusted(self) -> list[Path]:
        """The public keys of which one must have signed what is pulled; none: everything is taken."""
        from corrigenda.api.opened import trusted_by

        return trusted_by(self.config)

    # Corrections: into the queue, and what became of them.

    def submit(
        self,
        what: Any,
        *,
        model: str | None = None,
        asserted_at: datetime | None = None,
        source: str | None = None,
        encoding: str | None = None,
        dry_run: bool = False,
    ) -> values.Submitted:
        """Check corrections and put the good ones into the queue.

        what          a file (Parquet, CSV, JSON, JSON Lines, in any known shape), a list of dicts, or a data
                      frame of pandas, polars, pyarrow or DuckDB
        model         a model, a glob or tag:NAME, for every row
        asserted_at   for rows that do not say; default: the file's own time, or now
        source        who says so, for rows that do not say; default: you
        encoding      of a text file that is not UTF-8 and has no byte order mark
        dry_run       only say what was understood

        A retract without a time of its own is dated after what it takes back. Rows without one that say
        what is known already are repeats; those that would undo a retract are refused. The same corrections
        handed in twice are handed in once. Raises CorrectionsError for what is no table of corrections,
        NotFoundError when `model` means no model.
        """
        from corrigenda.api import queueing

        return queueing.submit_to_fleet(
            self.config,
            what,
            model=model,
            asserted_at=asserted_at,
            source=source,
            encoding=encoding,
            dry_run=dry_run,
        )

    def retract(self, *correction_ids: str, model: str = "*", reason: str | None = None) -> values.Retracted:
        """Take corrections back: the next release is solved without them, as if they had never been said.

        model   a model, a glob or tag:NAME; default: wherever they are
        """
        from corrigenda.api import queueing

        return queueing.retract(self.config, correction_ids, model=model, reason=reason)

    def status(self, model: str | None = None) -> values.FleetStatus:
        """Refs, ledger counts, what waits in the queue, what was rejected, and what cannot be read."""
        from corrigenda.api import books

        return books.status(self.config, self._names(model))

    def log(self, model: str) -> tuple[values.Move, ...]:
        """Every move of a model's `latest`, newest first, rollbacks included."""
        from corrigenda.api import books

        return tuple(books.log(self.store, model))

    def show(self, correction_id: str, model: str | None = None) -> values.Story:
        """A correction's whole history: releases, what waits, rejected rows, and its probes."""
        from corrigenda.api import answers, books

        told = books.story(self.config, self._names(model), correction_id)
        return replace(told, probes=answers.probes_of(self.config, correction_id, model))

    # Runs and releases.

    def run(
        self,
        models: Sequence[str] | None = None,
        *,
        dry_run: bool = False,
        layouts: Sequence[Layout] = (),
        orchestrated: bool = False,
    ) -> values.FleetRun:
        """Correct the models now: ingest, localize, edit, validate, publish.

        models         default: all
        dry_run        say what is new, change nothing
        layouts        how releases are laid out in the store, besides what the configuration says
        orchestrated   run the scheduled flow, under Prefect; default: the same stages, plainly

        What fails for one model is that model's outcome: see `FleetRun.failed`.
        """
        from corrigenda.api import runs

        return runs.run(
            self.config, self.path, models, dry_run=dry_run, layouts=layouts, orchestrated=orchestrated
        )

    def layers(self, model: str, *, method: str | None = None, fresh: bool = False) -> LayerScores:
        """Every layer's score and the golden layer, found now if that is still to do.

        method   another localizer than the configured one
        fresh    find it again, whatever was found before
        """
        from corrigenda.pipeline.localize import layers_of

        return layers_of(self.path, model, method=method, fresh=fresh)

    def pull(
        self,
        target: str,
        dest: Path | str,
        *,
        cache: Path | None = None,
        repair: bool = False,
        trusted: Sequence[Path] | None = None,
        verify: bool = True,
        allow_older: bool = False,
        progress: Progress | None = None,
    ) -> Pulled:
        """Make `dest` the release `MODEL[@REF]`, as `corrigenda.pull` does. Trusts the fleet's own keys."""
        from corrigenda.api import releases

        return releases.pull(
            self.store,
            target,
            Path(dest),
            cache=cache,
            repair=repair,
            trusted=self.trusted if trusted is None else trusted,
            verify=verify,
            allow_older=allow_older,
            progress=progress,
        )

    def export_lora(self, target: str, dest: Path | str, *, trusted: Sequence[Path] | None = None) -> Adapter:
        """Write the release `MODEL[@REF]` as a PEFT adapter for its base."""
        from corrigenda.api import releases

        keys = self.trusted if trusted is None else trusted
        return releases.export_lora(self.store, target, Path(dest), keys)

    def rollback(self, model: str, *, to: int, reason: str = "") -> values.Move:
        """Move `latest` back to an older release. Its ledger comes back with it: what later releases took in
        waits in the queue again."""
        from corrigenda.api import releases

        return releases.rollback(self.config, self.store, model, to=to, reason=reason)

    def serve(self, cron: str = "0 2 * * *", *, timezone: str = "UTC", port: int = 4200) -> None:
        """Keep the schedule and run the nights in this process and its children, until it is ended.

        port   where the embedded server shows them, unless PREFECT_API_URL names a server
        """
        from corrigenda.flows.served import serve

        serve(self.path, self.config.root, cron, timezone, port)

    def hold(self, model: str, *, at: int | None = None, why: str = "") -> Hold:
        """Keep `latest` at a release, over nights, until `lift` is called; default: where it is now."""
        from corrigenda.storage.objects.keys import Keyring
        from corrigenda.storage.releases import hold
        from corrigenda.storage.releases.lease import person

        name, keys = self.config.model(model).name, Keyring.of(self.config)
        return hold.place(self.store, name, at=at, why=why, who=person(), keys=keys)

    def lift(self, model: str) -> Hold | None:
        """End a hold: the next night publishes again. The hold that there was; None when there was none."""
        from corrigenda.storage.releases import hold

        return hold.lift(self.store, self.config.model(model).name)

    def sign(self, target: str, key: Path | str | None = None, *, added: bool = False) -> values.Signed:
        """Vouch for what was published without a key, or with another one.

        target   MODEL@N: that release. MODEL: its base, the published release, and the ref that names it
        key      a private key (PEM); default: the fleet's
        added    sign also a release that brings files which its base has not
        """
        from corrigenda.api import releases

        own = None if key is None else Path(key)
        return releases.sign(self.config, self.store, target, own, added=added)

    def card(self, target: str, repository: str, *, base_model: str | None = None) -> values.Card:
        """The model card that `push` would bring; nothing is sent.

        base_model   the base's id on the hub, where the configuration's `source` is none
        """
        from corrigenda.api import releases

        return releases.card(self.config, self.store, target, repository, base_model)[1]

    def push(
        self, target: str, repository: str, *, base_model: str | None = None, private: bool = False
    ) -> Pushed:
        """Put a release and its card on a Hugging Face hub: OWNER/NAME, in one commit with a tag."""
        from corrigenda.api import releases

        return releases.push(
            self.config, self.store, target, repository, base_model=base_model, private=private
        )

    # What validation found.

    def corrections(
        self,
        state: str | None = None,
        model: str | None = None,
        *,
        warn: Callable[[str], object] = warnings.warn,
    ) -> Table:
        """The corrections of the published releases with their states: quarantined ones, say, and why."""
        from corrigenda.api import answers

        return answers.corrections(self.config, state, self.config.model(model).name if model else None, warn)

    def query(
        self, sql: str, *, warn: Callable[[str], object] = warnings.warn, **parameters: object
    ) -> Table:
        """One SELECT (DuckDB) over the results, as an Arrow table; it sees neither files nor the network.

        parameters   values of the $names in it
        warn         told of models whose releases are damaged
        """
        from corrigenda.api import answers

        return answers.query(self.config, sql, warn, **parameters)

    def results(
        self, what: str, model: str | None = None, *, warn: Callable[[str], object] = warnings.warn
    ) -> Table:
        """A ready question: corrections, gates, drift, history or regressions."""
        from corrigenda.api import answers

        return answers.ready(self.config, what, model, warn)

    def report(self, target: str) -> values.Report:
        """A self-contained page about the release `MODEL[@REF]`; `write` makes a file of it."""
        from corrigenda.api import reports

        return reports.report(self.config, target)

    # Upkeep.

    def gc(
        self,
        *,
        delete: bool = False,
        grace: timedelta = timedelta(days=7),
        keep: int | None = None,
        cache_age: timedelta | None = None,
        wait: timedelta = timedelta(seconds=10),
    ) -> Plan:
        """What no release, ref or cache entry needs any more.

        delete      remove it
        grace       nothing younger is touched
        keep        newest releases to keep per ref; default: the whole history
        cache_age   cache entries older than this go, too; default: none
        wait        between marking and deleting: what is written again by then stays
        """
        from corrigenda.api import upkeep

        return upkeep.gc(self.config, delete=delete, grace=grace, keep=keep, cache_age=cache_age, wait=wait)

    def unlock(self, model: str, *, force: bool = False) -> str | None:
        """End the lease of a run that is known to be dead; whose it was, None when nobody held one.

        force   also when the run is a process that is alive on this machine

        Raises BusyError when it is and `force` is false.
        """
        from corrigenda.api import upkeep

        return upkeep.unlock(self.config, model, force=force)

    def _names(self, model: str | None) -> list[str]:
        return [self.config.model(model).name] if model else list(self.models)
