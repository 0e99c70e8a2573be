"""The search of a study: Optuna proposes settings, each trial trains as the train stage does, and MLflow logs it.

All trials are in the study's queue before the first one starts, and a process takes the next one under a lock. So
several processes, on one machine or with PostgreSQL on several, run each trial once. Optuna alone does not ensure that:
its GridSampler may give one point to two processes, and SQLite, which locks no rows, one queued trial. A trial whose
process was killed has no heartbeat any more and is queued again.
"""

import logging
import math
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
from gemmodel.train import fit
from gemmodel.train.context import TrainingContext
from gemmodel.train.train import train_model
from gemmodel.tune import mlflow_log, spaces, studies
from gemmodel.tune.studies import CHANGES, CONFIG, IDENTITY, REASON, STD, VALUES, study_errors, study_lock

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of many networks in one process
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat, experimental since version 2.5

STATUSES = {TrialState.RUNNING: "RUNNING", TrialState.WAITING: "SCHEDULED"}  # of a study with such a trial, in MLflow


class TrialError(Exception):
    """A trial whose settings cannot be trained; the search continues without it."""


@dataclass(frozen=True)
class Search:
    """One process's part in the search of a study.

    Attributes:
        name: name of the study.
        uri: URI of the studies' database.
        space: the fixed values and the axes of the search.
        values: all values of params.yaml; those that the space does not name stay as they are.
        sampler: grid, tpe or random.
        pruner: median or none.
        metric: val_accuracy or val_loss, of the epoch that a training keeps.
        repeats: trainings per setting, with the seeds base.seed, base.seed + 1, ...; the trial's value is their mean.
        heartbeat: seconds between heartbeats; a trial that misses three is queued again.
        data: a hash of the files that the trials train on.
        code: a hash of the code.
        context: of each training, but for its parameters, checkpoints and `on_epoch`.
        log: called with one line per finished trial.
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
    data: str
    code: str
    context: TrainingContext
    log: Callable[[str], None] = print

    def config(self) -> dict[str, str]:
        """Returns the settings that must be the same in all processes of a study, and each time that it resumes."""
        settings = params.checked(spaces.with_changes(self.values, self.space.fixed), "params.yaml")
        sections = {
            "base": asdict(settings.base),
            "train": asdict(settings.train),
            "model": {settings.model.name: asdict(getattr(settings.model, settings.model.name))},
        }
        sections |= (
            {"embed": asdict(settings.embed)}
            if settings.model.name == "fusion"
            else {"augment": asdict(settings.augment)}
        )
        config = pd.json_normalize(sections).iloc[0].to_dict()
        for key in ("base.threads", "train.device", "train.resume", "train.tensorboard", *self.space.axes):
            config.pop(key, None)
        config |= self.space.axes
        config |= {"sampler": self.sampler, "pruner": self.pruner, "metric": self.metric, "repeats": self.repeats}
        return {key: str(value) for key, value in config.items()} | {"data": self.data, "code": self.code}

    def load(self, *, create: bool) -> optuna.Study:
        """Opens the study, and creates it where there is none.

        Raises:
            ParameterError: there is none and `create` is false, or it has another configuration.
            TrackingError: the database is unreachable.
        """
        with study_errors(self.uri), study_lock(self.uri):
            storage = studies.open_storage(self.uri, self.heartbeat)
            if not create and self.name not in optuna.get_all_study_names(storage):
                raise ParameterError(f"--study: {self.name}: no study of this name yet; run this without --show")
            study = optuna.create_study(
                storage=storage,
                study_name=self.name,
                direction="minimize" if self.metric == "val_loss" else "maximize",
                pruner=optuna.pruners.MedianPruner() if self.pruner == "median" else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            if IDENTITY in study.user_attrs and CONFIG not in study.user_attrs:
                raise ParameterError(f"--study: {self.name} was begun by version 0.1; name another study")
            config = self.config()
            stored = study.user_attrs.get(CONFIG, config)
            differing = [key for key in {**stored, **config} if stored.get(key) != config.get(key)]
            if differing:
                key = differing[0]
                raise ParameterError(
                    f"--study: {self.name} was begun with other settings ({key}: {stored.get(key)} there, "
                    f"{config.get(key)} here); restore them, or name another study"
                )
            if IDENTITY not in study.user_attrs:
                study.set_user_attr(IDENTITY, os.urandom(8).hex())
                study.set_user_attr(CONFIG, config)
            return study

    def run(self, study: optuna.Study, *, trials: int, timeout: float) -> None:
        """Runs trials until none is left.

        Args:
            study: from `load`.
            trials: their number in the whole study, over all processes; a grid has one per point instead.
            timeout: seconds after which no other trial starts.

        Raises:
            TrackingError: a database is unreachable; the trial that it stopped is queued again.
        """
        start = time.monotonic()
        with ExitStack() as open_run, study_errors(self.uri):
            with study_lock(self.uri):
                self._enqueue(study, trials)
                opened = mlflow_log.study_run(self.name, study.user_attrs[IDENTITY], study.user_attrs[CONFIG])
                parent = open_run.enter_context(opened)
            idle_since, max_idle = None, studies.MISSED_HEARTBEATS * self.heartbeat + 2
            while time.monotonic() - start < timeout:
                if self._run_next(study, parent):
                    idle_since = None
                    continue
                running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if not running:
                    break
                if idle_since is None:
                    idle_since = time.monotonic()
                    self.log(f"trial {running[0].number} runs in another process; waiting for its heartbeat")
                if time.monotonic() - idle_since > max_idle:  # that process is alive, or its trial would be queued
                    break
                time.sleep(1)
            with study_lock(self.uri):  # else of two processes the slower could log the older state
                table, best = studies.trials_table(study), studies.best_trial(study)
                left = {trial.state for trial in study.get_trials(deepcopy=False)}
                status = next((text for state, text in STATUSES.items() if state in left), "FINISHED")
                summary = {}
                if best:
                    summary = {"trial": studies.original_number(best), "value": best.value} | best.user_attrs[CHANGES]
                    summary |= {STD: best.user_attrs[STD]} if self.repeats > 1 else {}
                mlflow_log.log_summary(parent.run_id, table, summary, status, metric=self.metric)

    def _enqueue(self, study: optuna.Study, trials: int) -> None:
        """Queues the trials that the study does not have yet."""
        points = self.space.grid() if self.sampler == "grid" else [{} for _ in range(trials)]
        for point in studies.missing_points(study, points):
            study.enqueue_trial(point)

    def _run_next(self, study: optuna.Study, parent: mlflow_log.StudyRun) -> bool:
        """Runs the next trial of the queue; returns whether there was one."""
        with ExitStack() as lock:
            lock.enter_context(study_lock(self.uri))
            fail_stale_trials(study)
            waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting:
                return False
            # A seed per trial: what is proposed depends on the trials before it, not on the process that runs it.
            seed = int(self.values["base"]["seed"]) + waiting[0].number
            study.sampler = (
                optuna.samplers.TPESampler(seed=seed) if self.sampler == "tpe" else optuna.samplers.RandomSampler(seed)
            )
            # The first heartbeat comes before the start: without any, a trial that is taken and then killed would stay
            # "running" for ever.
            study._storage.record_heartbeat(waiting[0]._trial_id)  # type: ignore[attr-defined]
            try:
                study.optimize(partial(self._trial, study, parent, lock.close), n_trials=1, catch=(TrialError,))
            except (UpdateFinishedTrialError, ValueError) as error:
                if isinstance(error, ValueError) and "Cannot tell" not in str(error):
                    raise
                self.log(f"trial {waiting[0].number}: no heartbeat in time, so it is queued again; see --heartbeat")
        return True

    def _trial(
        self, study: optuna.Study, parent: mlflow_log.StudyRun, unlock: Callable[[], None], trial: optuna.Trial
    ) -> float:
        """Trains one setting `repeats` times, and returns the mean of the metric."""
        changes = self.space.suggest(trial)
        number = studies.original_number(study.trials[trial.number])
        trial.set_user_attr(CHANGES, changes)
        unlock()
        settings = params.checked(spaces.with_changes(self.values, self.space.fixed | changes), "params.yaml")
        logged: dict[str, Any] = {
            "base": asdict(settings.base),
            "train": asdict(settings.train),
            "augment": asdict(settings.augment),
        }
        logged |= {"model_name": settings.model.name, "model": asdict(getattr(settings.model, settings.model.name))}
        checkpoints = self.context.checkpoints / "tune" / f"{study.user_attrs[IDENTITY]}-{number}"
        start, failure = time.monotonic(), None
        try:
            with mlflow_log.trial_run(parent, number, logged):
                values = list(trial.user_attrs.get(VALUES, []))
                try:
                    for repeat in range(len(values), self.repeats):
                        values.append(self._train(trial, settings, repeat, checkpoints))
                        trial.set_user_attr(VALUES, values)
                    mean, std = statistics.fmean(values), {}
                    if self.repeats > 1:
                        std = {f"best_{self.metric}_std": statistics.stdev(values)}
                        trial.set_user_attr(STD, *std.values())
                    mlflow_log.log_result("complete", {f"best_{self.metric}": mean} | std)
                    outcome = f"{self.metric} {mean:.4f}" + "".join(f" +- {value:.4f}" for value in std.values())
                except (TrialPruned, TrialError) as error:
                    failure, state = error, "pruned" if isinstance(error, TrialPruned) else "failed"
                    trial.set_user_attr(REASON, str(error))
                    mlflow_log.log_result(state, {}, str(error))
                    outcome = f"{state}: {error}"
        except (KeyboardInterrupt, TrackingError):
            RetryHeartbeatStaleTrialCallback()(study, study.trials[trial.number])
            raise
        shutil.rmtree(checkpoints, ignore_errors=True)
        finished, total = studies.progress(study)
        tried = ", ".join(f"{key} {spaces.to_cli(value)}" for key, value in changes.items())
        self.log(f"{finished + 1} of {total}: trial {number}: {outcome}; {tried}; {time.monotonic() - start:.0f} s")
        if failure:
            raise failure
        return mean

    def _train(self, trial: optuna.Trial, settings: params.Params, repeat: int, checkpoints: Path) -> float:
        """Trains once, with the seed of a repeat; returns the metric of the epoch that is kept."""
        base = replace(settings.base, seed=settings.base.seed + repeat)
        seed = base.seed if self.repeats > 1 else None
        has_epochs = settings.model.name != "fusion"  # its "epochs" are penalties

        def on_epoch(epoch: int, values: Mapping[str, float]) -> None:
            mlflow_log.log_epoch(epoch, values, seed=seed)
            if repeat == 0 and has_epochs:  # a setting is pruned in its first training or not at all
                trial.report(values[self.metric], epoch)
                if trial.should_prune():
                    raise TrialPruned(f"{self.metric} {values[self.metric]:.4f} after epoch {epoch}")

        keras.backend.clear_session()
        keras.utils.set_random_seed(base.seed)
        try:
            with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
                result = train_model(
                    replace(
                        self.context, params=replace(settings, base=base), checkpoints=checkpoints, on_epoch=on_epoch
                    )
                )
        except (OptunaError, TrackingError):
            raise
        except Exception as error:  # a network that does not fit its photos, or no memory
            kind = "" if isinstance(error, GemmodelError) else f"{type(error).__name__}: "
            reason = f"{kind}{error}".strip().splitlines()[0]
            raise TrialError(reason[:200]) from error
        finally:
            keras.config.set_dtype_policy("float32")
        value = float(fit.summary(result.history, result.selection_metric, result.kept)[f"best_{self.metric}"])
        if math.isnan(value):
            raise TrialError(f"{self.metric} is not a number")
        return value
