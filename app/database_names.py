"""Where a named database is, by variables: `sales` in the tier `staging` is found by

    STAGING_GLOBAL_SALES_CONNECTION_STRING   or SALES_CONNECTION_STRING: its URL
    STAGING_GLOBAL_SALES_TYPE                optional: what the URL must be, for example postgresql

`rpa_db` is the database of the tasks, at DATABASE_URL unless it is named otherwise.
"""

from __future__ import annotations

import re

from sqlalchemy.engine import URL

from config import Config, ConfigError
from config_values import driver_url

QUEUE_DATABASE = "rpa_db"
SQL_KINDS = {"mariadb": "mysql", "postgres": "postgresql"}


def spelled(name: str) -> str:
    """A name as a variable spells it: what is no letter, digit or underscore becomes one underscore."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()


def variables_of(config: Config, name: str) -> str:
    """What the variables of a named database begin with in this tier."""
    return f"{config.APP_ENV.upper()}_GLOBAL_{spelled(name)}"


def url_of(config: Config, name: str) -> URL:
    """Where a named database is. Raises `ConfigError` naming the variable that is missing or wrong."""
    prefix = variables_of(config, name)
    names = [f"{prefix}_CONNECTION_STRING", f"{spelled(name)}_CONNECTION_STRING"]
    found = next((variable for variable in names if config.variable(variable)), None)
    given = config.variable(found) if found else None
    if given is None:
        if name != QUEUE_DATABASE:
            raise ConfigError([f"The database {name} is not named: set {' or '.join(names)}."])
        found, given = "DATABASE_URL", config.DATABASE_URL
    try:
        url = driver_url(given)
    except ValueError as error:
        raise ConfigError([f"{found} {error}."]) from None
    kind = config.variable(f"{prefix}_TYPE")
    if kind and _kind(kind) != _kind(url.get_backend_name()):
        raise ConfigError([f"{prefix}_TYPE is {kind}, and {found} begins with {url.drivername}."])
    return url


def _kind(word: str) -> str:
    return SQL_KINDS.get(word.lower(), word.lower())
