"""Your own interactions: RecBole's atomic files, or CSV files with named columns.

Both are UTF-8 with a header. All other columns of the users' file are attributes, their values
classes by the rule of data.dataset.class_name, except that an age in years becomes ML-1M's bracket.
"""

import csv
from pathlib import Path

import pandas as pd

from data.sources.readers import (
    PrepareSettings,
    RawData,
    age_bracket,
    check_columns,
    check_given,
    check_once,
    described_once,
    read_named,
    seconds,
)
from utils.errors import UserError


def read_recbole(paths: list[Path], settings: PrepareSettings) -> RawData:
    """NAME.inter with user_id, item_id and perhaps timestamp, and NAME.user with user_id and
    attributes; tab-separated, each column called name:type.

    Raises:
        UserError: a missing column or one twice, an empty id, a time that is none, a user
            described twice.
    """
    interactions, users = (read_named(path, "\t", csv.QUOTE_NONE) for path in paths)
    for path, table in zip(paths, (interactions, users), strict=True):
        names = [name.partition(":")[0] for name in table.columns]
        check_once(path, names)  # age:token beside age:float
        table.columns = pd.Index(names)
    time = "timestamp" if "timestamp" in interactions else None
    return _raw_data(paths, interactions, users, "user_id", "item_id", time, "add it")


def read_csv(paths: list[Path], settings: PrepareSettings) -> RawData:
    """interactions.csv and users.csv, comma-separated; the config's user_column, item_column and
    time_column say which columns are which. Without times the file's order counts.

    Raises:
        UserError: as `read_recbole`.
    """
    interactions, users = (read_named(path, ",", csv.QUOTE_MINIMAL) for path in paths)
    mend = "set user_column, item_column and time_column (null = no times) to what they are called"
    return _raw_data(
        paths,
        interactions,
        users,
        settings.user_column,
        settings.item_column,
        settings.time_column,
        mend,
    )


def _raw_data(
    paths: list[Path],
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    user: str,
    item: str,
    time: str | None,
    mend: str,
) -> RawData:
    interactions_path, users_path = paths
    columns = [user, item, time] if time else [user, item]
    check_columns(interactions_path, columns, interactions, mend)
    check_columns(users_path, [user], users, mend)
    log = pd.DataFrame(
        {
            "user": check_given(interactions_path, interactions[user]),
            "item": check_given(interactions_path, interactions[item]),
            "timestamp": seconds(interactions_path, interactions[time]) if time else 0,
        }
    )
    users.index = pd.Index(check_given(users_path, users[user]))
    users = users.drop(columns=user)
    if taken := {"index", "raw_id"} & set(users):  # columns of the prepared users.csv
        raise UserError(f'{users_path}: an attribute can\'t be called "{min(taken)}"; rename it')
    if "age" in users:
        users["age"] = users["age"].map(age_bracket)
    return RawData(log, described_once(users_path, users))
