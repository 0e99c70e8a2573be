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
from gemmodel.tracking import runs

RETRIES = 3  # of a trial whose process was killed: it may be what kills it
LOST_AFTER = 3  # heartbeats
CONFIG, IDENTITY, CHANGES, VALUES, STD, REASON = (
    "config", "identity", "changes", "values", "std", "reason",
)  # fmt: skip
BUSY = {"sqlite": {"timeout": 120}, "postgresql": {"connect_timeout": 10}}  # seconds
ORDER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)


@contextmanager
def study_lock(uri: str) -> Iterator[None]:
    """Keeps out other processes that take or add trials; the lock of a killed one is free."""
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() == "sqlite":
        with FileLock(f"{url.database}.lock"):
            yield
    else:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=BUSY["postgresql"])
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('gemmodel tune'))"))
            yield


@contextmanager
def study_errors(uri: str) -> Iterator[None]:
    """Turns failures of the studies' database into one line.

    Raises:
        TrackingError: it does not answer.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise TrackingError(f"{sqlalchemy.make_url(uri).render_as_string()}: {cause}") from error


def resolve_uri(uri: str) -> str:
    """Returns the studies' database with its full path; a relative one starts at the project's root.

    Raises:
        ParameterError: it is neither SQLite nor PostgreSQL.
    """
    try:
        url = sqlalchemy.make_url(uri)
    except sqlalchemy.exc.ArgumentError:
        raise ParameterError("--storage: no URI; like sqlite:///tune.db or postgresql://user@host/studies") from None
    if url.get_backend_name() not in BUSY or not url.database:
        raise ParameterError(f"--storage: {url.drivername}: it must be sqlite:///FILE or postgresql://USER@HOST/NAME")
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(runs.project_root() / url.database))
    elif url.drivername == "postgresql":  # SQLAlchemy's default is another driver from version to version
        url = url.set(drivername="postgresql+psycopg2")
    return url.render_as_string(hide_password=False)


def open_storage(uri: str, heartbeat: int) -> RDBStorage:
    """Opens the database, and makes its tables; for one process at a time."""
    return RDBStorage(
        uri,
        engine_kwargs={"connect_args": BUSY[sqlalchemy.make_url(uri).get_backend_name()], "pool_pre_ping": True},
        heartbeat_interval=heartbeat,
        grace_period=LOST_AFTER * heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
    )


def missing(study: optuna.Study, points: list[dict[str, object]]) -> list[dict[str, object]]:
    """Returns the points that no trial of a study stands for; one that failed for a reason of its own does."""
    there = [trial for trial in study.get_trials(deepcopy=False) if _counts(trial)]
    left = [trial.system_attrs.get("fixed_params") for trial in there]
    found = []
    for point in points:  # of a sampler that proposes them all points are alike
        if point in left:
            left.remove(point)
        else:
            found.append(point)
    return found


def first_number(trial: FrozenTrial) -> int:
    """Returns the number of a trial; of one that is done again, of its first time."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials, the best first, then what is not complete; one that was done again stands once."""
    last = {first_number(trial): trial for trial in study.get_trials(deepcopy=False)}
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1

    def rank(trial: FrozenTrial) -> tuple[int, float, int]:
        complete = trial.state == TrialState.COMPLETE
        return ORDER.index(trial.state), sign * (trial.value or 0.0) if complete else 0.0, trial.number

    return sorted(last.values(), key=rank)


def best(study: optuna.Study) -> FrozenTrial | None:
    """Returns the best complete trial, of equals the first."""
    return next((trial for trial in ranked(study) if trial.state == TrialState.COMPLETE), None)


def progress(study: optuna.Study) -> tuple[int, int]:
    """Returns how many trials are over, and how many there are."""
    trials = ranked(study)
    return sum(trial.state.is_finished() for trial in trials), len(trials)


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Returns a row a trial, by rank: its number, state, value, deviation, the values of the axes, and a reason."""
    rows = []
    for trial in ranked(study):
        state = "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()
        row = {"trial": first_number(trial), "state": state}
        row |= {"value": trial.value if state == "complete" else None, STD: trial.user_attrs.get(STD)}
        row |= trial.user_attrs.get(CHANGES, {})
        rows.append(row | {REASON: trial.user_attrs.get(REASON, "")})
    table = pd.DataFrame(rows or {"trial": [], "state": []})
    empty = [name for name in (STD, REASON) if name in table and (table[name].isna() | (table[name] == "")).all()]
    return table.drop(columns=empty)


def _counts(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.FAIL or REASON in trial.user_attrs
