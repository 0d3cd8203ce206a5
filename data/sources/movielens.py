"""MovieLens' raw files. Every rating is a positive, whatever its value."""

from collections.abc import Mapping
from pathlib import Path

from data.sources.readers import PrepareSettings, RawData, age_bracket, described_once, read_table
from utils.errors import UserError

RATING = {"user": int, "item": int, "rating": float, "timestamp": int}

# ML-1M's README; the code is the position
OCCUPATIONS = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)


def read_ml100k(paths: list[Path], settings: PrepareSettings) -> RawData:
    """MovieLens-100K: u.data (user, item, rating, timestamp; tabs) and u.user (id, age, gender,
    occupation, zip code; bars).

    Raises:
        UserError: a line with another number of fields or an id or time that is no number.
    """
    columns = {"user": int, "age": str, "gender": str, "occupation": str, "zip": str}
    return _read(paths, ("\t", "|"), columns)


def read_ml1m(paths: list[Path], settings: PrepareSettings) -> RawData:
    """MovieLens-1M: ratings.dat (user, item, rating, timestamp) and users.dat (id, gender, age,
    occupation, zip code), fields separated by two colons.

    An age is the first year of its bracket (1, 18, 25, ...), an occupation a number from 0 to 20.

    Raises:
        UserError: as `read_ml100k`, or an occupation that has no name.
    """
    columns = {"user": int, "gender": str, "age": str, "occupation": int, "zip": str}
    raw = _read(paths, ("::", "::"), columns)
    codes = raw.users["occupation"]
    if (codes >= len(OCCUPATIONS)).any():
        user = codes.index[codes >= len(OCCUPATIONS)][0]
        raise UserError(
            f"{paths[1]}: user {user} has occupation {codes[user]}; the codes end at "
            f"{len(OCCUPATIONS) - 1}"
        )
    return RawData(
        raw.interactions, raw.users.assign(occupation=[OCCUPATIONS[code] for code in codes])
    )


def _read(
    paths: list[Path], separators: tuple[str, str], user_columns: Mapping[str, type]
) -> RawData:
    ratings_path, users_path = paths
    ratings = read_table(ratings_path, separators[0], RATING)
    users = read_table(users_path, separators[1], user_columns)
    users["age"] = users["age"].map(age_bracket)
    users.index = users["user"].astype(str)
    users = described_once(users_path, users[["gender", "age", "occupation"]])
    return RawData(ratings[["user", "item", "timestamp"]], users)
