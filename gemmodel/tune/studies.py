"""The database of studies: Optuna's, in a SQLite file or, for a team, PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import pandas as pd
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from gemmodel.core.errors import ParameterError, TrackingError
from gemmodel.tracking import store

MAX_RETRIES = 3  # of a trial whose process was killed: the trial may be the cause
MISSED_HEARTBEATS = 3  # after which a trial's process counts as killed
CONFIG, IDENTITY = "config", "identity"  # attributes of a study
CHANGES, VALUES, STD, REASON = "changes", "values", "std", "reason"  # attributes of a trial
CONNECT_ARGS = {"sqlite": {"timeout": 120}, "postgresql": {"connect_timeout": 10}}  # seconds
ORDER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)


@contextmanager
def study_lock(uri: str) -> Iterator[None]:
    """Locks the queue of trials against other processes; a killed process holds no lock."""
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() == "sqlite":
        with FileLock(f"{url.database}.lock"):
            yield
    else:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=CONNECT_ARGS["postgresql"])
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('gemmodel tune'))"))
            yield


@contextmanager
def study_errors(uri: str) -> Iterator[None]:
    """Turns the errors of the studies' database into one line, without a password.

    Raises:
        TrackingError: it does not answer.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise TrackingError(f"{sqlalchemy.make_url(uri).render_as_string()}: {cause}") from error


def resolve_uri(uri: str) -> str:
    """Returns the URI of the studies' database with its full path; a relative one starts at the project's root.

    Raises:
        ParameterError: the database is neither SQLite nor PostgreSQL.
    """
    try:
        url = sqlalchemy.make_url(uri)
    except sqlalchemy.exc.ArgumentError:
        raise ParameterError("--storage: no URI; like sqlite:///tune.db or postgresql://user@host/studies") from None
    if url.get_backend_name() not in CONNECT_ARGS or not url.database:
        raise ParameterError(f"--storage: {url.drivername}: it must be sqlite:///FILE or postgresql://USER@HOST/NAME")
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(store.project_root() / url.database))
    elif url.drivername == "postgresql":  # SQLAlchemy's default driver differs between versions
        url = url.set(drivername="postgresql+psycopg2")
    return url.render_as_string(hide_password=False)


def open_storage(uri: str, heartbeat: int) -> RDBStorage:
    """Opens the database, and creates its tables; for one process at a time."""
    return RDBStorage(
        uri,
        engine_kwargs={
            "connect_args": CONNECT_ARGS[sqlalchemy.make_url(uri).get_backend_name()],
            "pool_pre_ping": True,
        },
        heartbeat_interval=heartbeat,
        grace_period=MISSED_HEARTBEATS * heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES),
    )


def missing_points(study: optuna.Study, points: list[dict[str, object]]) -> list[dict[str, object]]:
    """Returns the points that no trial of a study has; a trial that failed with a recorded reason has its point."""
    tried = [
        trial.system_attrs.get("fixed_params")
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL or REASON in trial.user_attrs
    ]
    missing = []
    for point in points:  # counted, since a sampler that proposes has only equal, empty points
        if point in tried:
            tried.remove(point)
        else:
            missing.append(point)
    return missing


def original_number(trial: FrozenTrial) -> int:
    """Returns the number of a trial; of one that was queued again, the number that it had first."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def ranked_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the complete trials, best first, then the others; of a trial that was queued again, only the last try."""
    last_tries = {original_number(trial): trial for trial in study.get_trials(deepcopy=False)}
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1

    def rank(trial: FrozenTrial) -> tuple[int, float, int]:
        complete = trial.state == TrialState.COMPLETE
        return ORDER.index(trial.state), sign * (trial.value or 0.0) if complete else 0.0, trial.number

    return sorted(last_tries.values(), key=rank)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Returns the best complete trial, the first of equals, or None."""
    return next((trial for trial in ranked_trials(study) if trial.state == TrialState.COMPLETE), None)


def progress(study: optuna.Study) -> tuple[int, int]:
    """Returns the number of finished trials, and of all."""
    trials = ranked_trials(study)
    return sum(trial.state.is_finished() for trial in trials), len(trials)


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Returns one row per trial, by rank: number, state, value, std, the values of the axes, and the reason of failure.

    Columns `std` and `reason` are left out where no trial has one.
    """
    rows = []
    for trial in ranked_trials(study):
        state = "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()
        row = {"trial": original_number(trial), "state": state}
        row |= {"value": trial.value if state == "complete" else None, STD: trial.user_attrs.get(STD)}
        row |= trial.user_attrs.get(CHANGES, {})
        rows.append(row | {REASON: trial.user_attrs.get(REASON, "")})
    table = pd.DataFrame(rows or {"trial": [], "state": []})
    empty = [name for name in (STD, REASON) if name in table and (table[name].isna() | (table[name] == "")).all()]
    return table.drop(columns=empty)
