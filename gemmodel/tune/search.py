"""Searching a space: Optuna proposes, each trial is a training as the train stage does it, and MLflow remembers.

All trials stand in the study's queue before the first one begins, and a process takes the next one under a lock. So
several processes at once, here or, with PostgreSQL, on other machines, do each one once: Optuna's GridSampler may give
one point to two of them, and SQLite, which locks no rows, one queued trial. A trial whose process was killed has no
heartbeat any longer and is queued again.
"""

import logging
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning, OptunaError, TrialPruned, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState

from gemmodel.core import params
from gemmodel.core.errors import GemmodelError, ParameterError, TrackingError
from gemmodel.tracking import runs
from gemmodel.train import fit
from gemmodel.train.context import TrainingContext
from gemmodel.train.train import train_model
from gemmodel.tune import mlflow_log, spaces, studies
from gemmodel.tune.studies import CHANGES, CONFIG, IDENTITY, REASON, STD, VALUES, study_errors, study_lock

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # which wonders at so many networks in one process
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat, experimental since version 2.5


class TrialError(Exception):
    """A trial whose settings cannot be trained: the search goes on without it."""


@dataclass(frozen=True)
class Search:
    """One process's part in the search of a study.

    Attributes:
        name: of the study.
        uri: of the studies' database.
        space: what is changed.
        values: all that params.yaml holds; what the space does not name stays so.
        sampler: grid, tpe or random.
        pruner: median or none.
        metric: val_accuracy or val_loss, of the epoch that a training keeps.
        repeats: trainings of one setting, with the seeds from base.seed on; their mean is the trial's value.
        heartbeat: seconds between signs of life; a trial without three of them is done again.
        photos: a hash of what is learnt from.
        code: a hash of what trains.
        places: folders and files, as `architectures.train` takes them.
        say: takes a line about each trial.
    """

    name: str
    uri: str
    space: spaces.Space
    values: Mapping[str, Any]
    sampler: str
    pruner: str
    metric: str
    repeats: int
    heartbeat: int
    photos: str
    code: str
    places: Mapping[str, Any]
    say: Callable[[str], None] = print

    def agreed(self) -> dict[str, Any]:
        """Returns what has to be the same in all processes of a study, and whenever it is gone on with."""
        settings = params.checked(spaces.changed(self.values, self.space.fixed), "params.yaml")
        told = {
            "base": asdict(settings.base),
            "train": asdict(settings.train),
            "model": {settings.model.name: asdict(getattr(settings.model, settings.model.name))},
            "embed" if settings.model.name == "fusion" else "augment": asdict(
                settings.embed if settings.model.name == "fusion" else settings.augment
            ),
        }
        flat = pd.json_normalize(told).iloc[0].to_dict()
        for key in ("base.threads", "train.device", "train.resume", "train.tensorboard", *self.space.axes):
            flat.pop(key, None)
        flat |= {key: str(axis) for key, axis in self.space.axes.items()}
        flat |= {"sampler": self.sampler, "pruner": self.pruner, "metric": self.metric, "repeats": self.repeats}
        return {key: str(value) for key, value in flat.items()} | {"photos": self.photos, "code": self.code}

    def load(self, *, create: bool) -> optuna.Study:
        """Opens the study, or begins it.

        Raises:
            ParameterError: there is none, or it was begun with other settings.
            TrackingError: the database does not answer.
        """
        with study_errors(self.uri), study_lock(self.uri):
            kept = studies.open_storage(self.uri, self.heartbeat)
            if not create and self.name not in optuna.get_all_study_names(kept):
                raise ParameterError(f"--study: {self.name}: no study of this name yet; run this without --show")
            study = optuna.create_study(
                storage=kept,
                study_name=self.name,
                direction="minimize" if self.metric == "val_loss" else "maximize",
                pruner=optuna.pruners.MedianPruner() if self.pruner == "median" else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            agreed = self.agreed()
            begun = study.user_attrs.get(CONFIG, agreed)
            differing = [key for key in {**begun, **agreed} if begun.get(key) != agreed.get(key)]
            if differing:
                key = differing[0]
                raise ParameterError(
                    f"--study: {self.name} was begun with other settings ({key}: {begun.get(key)} there, "
                    f"{agreed.get(key)} here); go back to them, or name another study"
                )
            if IDENTITY not in study.user_attrs:
                study.set_user_attr(IDENTITY, os.urandom(8).hex())
                study.set_user_attr(CONFIG, agreed)
            return study

    def run(self, study: optuna.Study, *, wanted: int, timeout: float) -> None:
        """Does trials until none is left to be done.

        Args:
            study: from `load`.
            wanted: trials of the whole study, whoever does them; a grid has as many as it has points.
            timeout: seconds after which no other trial is begun.

        Raises:
            TrackingError: a database does not answer; the trial that it stopped is queued again.
        """
        begun = time.monotonic()
        with study_errors(self.uri):
            with study_lock(self.uri):
                self._fill(study, wanted)
                parent = mlflow_log.study(self.name, study.user_attrs[IDENTITY], study.user_attrs[CONFIG])
            idle, patience = None, studies.LOST_AFTER * self.heartbeat + 2
            while time.monotonic() - begun < timeout:
                if self._next(study, parent):
                    idle = None
                    continue
                running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if not running:
                    break
                if idle is None:
                    idle = time.monotonic()
                    self.say(f"trial {running[0].number} is being done elsewhere; seeing whether that is still alive")
                if time.monotonic() - idle > patience:  # it is, or it would have been queued again
                    break
                time.sleep(1)
            table, best = studies.trials_table(study), studies.best(study)
            left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
        told = {}
        if best:
            told = {"trial": studies.first_number(best), "value": best.value} | best.user_attrs[CHANGES]
            told |= {STD: best.user_attrs[STD]} if self.repeats > 1 else {}
        mlflow_log.log_summary(parent, table, told, over=not left)

    def _fill(self, study: optuna.Study, wanted: int) -> None:
        """Queues the trials that are still missing."""
        points = self.space.points() if self.sampler == "grid" else [{} for _ in range(wanted)]
        for point in studies.missing(study, points):
            study.enqueue_trial(point)

    def _next(self, study: optuna.Study, parent: str) -> bool:
        """Does the next trial of the queue; returns whether there was one."""
        with ExitStack() as taking:
            taking.enter_context(study_lock(self.uri))
            fail_stale_trials(study)
            waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting:
                return False
            # A trial's own seed: what it is proposed depends on the trials before it, not on who asks.
            seed = int(self.values["base"]["seed"]) + waiting[0].number
            study.sampler = (
                optuna.samplers.TPESampler(seed=seed) if self.sampler == "tpe" else optuna.samplers.RandomSampler(seed)
            )
            # It has one before it begins: without any, a trial that was taken and then killed would run for ever.
            study._storage.record_heartbeat(waiting[0]._trial_id)  # type: ignore[attr-defined]
            try:
                study.optimize(partial(self._trial, study, parent, taking.close), n_trials=1, catch=(TrialError,))
            except (UpdateFinishedTrialError, ValueError) as error:
                if isinstance(error, ValueError) and "Cannot tell" not in str(error):
                    raise
                self.say(f"trial {waiting[0].number}: gave no sign of life in time and is done again; see --heartbeat")
        return True

    def _trial(self, study: optuna.Study, parent: str, taken: Callable[[], None], trial: optuna.Trial) -> float:
        """Trains one setting, as often as is to be repeated, and returns the mean of the metric."""
        changes = self.space.suggest(trial)
        first = studies.first_number(study.trials[trial.number])
        trial.set_user_attr(CHANGES, changes)
        taken()
        settings = params.checked(spaces.changed(self.values, self.space.fixed | changes), "params.yaml")
        logged: dict[str, Any] = {
            "base": asdict(settings.base),
            "train": asdict(settings.train),
            "augment": asdict(settings.augment),
        }
        logged |= {"model_name": settings.model.name, "model": asdict(getattr(settings.model, settings.model.name))}
        backup = Path(self.places["checkpoints"]) / "tune" / f"{study.user_attrs[IDENTITY]}-{first}"
        begun, ended = time.monotonic(), None
        try:
            with mlflow_log.trial(parent, first, logged):
                values = list(trial.user_attrs.get(VALUES, []))
                try:
                    for number in range(len(values), self.repeats):
                        values.append(self._value(trial, settings, number, backup))
                        trial.set_user_attr(VALUES, values)
                    mean, told = statistics.fmean(values), {}
                    if self.repeats > 1:
                        told = {STD: statistics.stdev(values)}
                        trial.set_user_attr(STD, told[STD])
                    mlflow_log.end("complete", {"value": mean} | told)
                    line = f"{self.metric} {mean:.4f}" + "".join(f" +- {value:.4f}" for value in told.values())
                except (TrialPruned, TrialError) as error:
                    ended, state = error, "pruned" if isinstance(error, TrialPruned) else "failed"
                    trial.set_user_attr(REASON, str(error))
                    mlflow_log.end(state, {}, str(error))
                    line = f"{state}: {error}"
        except (KeyboardInterrupt, TrackingError):
            RetryHeartbeatStaleTrialCallback()(study, study.trials[trial.number])
            raise
        shutil.rmtree(backup, ignore_errors=True)
        done, of = studies.progress(study)
        self.say(f"{done + 1} of {of}: trial {first}: {line}; {in_words(changes)}; {time.monotonic() - begun:.0f} s")
        if ended:
            raise ended
        return mean

    def _value(self, trial: optuna.Trial, settings: params.Params, repeat: int, backup: Path) -> float:
        """Trains once, with the seed of a repeat; returns the metric of the epoch that is kept."""
        base = replace(settings.base, seed=settings.base.seed + repeat)
        prefix = f"seed_{base.seed}/" if self.repeats > 1 else ""
        kernel = settings.model.name == "fusion" and settings.model.fusion.head == "kernel"  # has no epochs

        def on_epoch(epoch: int, values: Mapping[str, float]) -> None:
            runs.log_metrics({prefix + name: value for name, value in values.items()}, epoch)
            if repeat == 0 and not kernel:  # a setting that begins badly is given up in its first training or never
                trial.report(values[self.metric], epoch)
                if trial.should_prune():
                    raise TrialPruned(f"{self.metric} {values[self.metric]:.4f} after epoch {epoch}")

        keras.backend.clear_session()
        keras.utils.set_random_seed(base.seed)
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                paths = {**self.places, "checkpoints": backup}
                result = train_model(TrainingContext(replace(settings, base=base), on_epoch=on_epoch, **paths))
        except (OptunaError, TrackingError):
            raise
        except Exception as error:  # a network that its photos do not fit, or no memory
            kind = "" if isinstance(error, GemmodelError) else f"{type(error).__name__}: "
            reason = f"{kind}{error}".strip().splitlines()[0]
            raise TrialError(reason[:200]) from error
        finally:
            keras.config.set_dtype_policy("float32")
        value = float(fit.summary(result.history, result.selection_metric)[f"best_{self.metric}"])
        if value != value:
            raise TrialError(f"{self.metric} is not a number")
        return value


def in_words(changes: Mapping[str, Any]) -> str:
    """Returns what a trial tries, in one line."""
    return ", ".join(f"{key} {spaces.to_cli(value)}" for key, value in changes.items())
